"""What a training does in every step runs without PyTorch's compiler, and does the same as with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_BOTH_WAYS = """
import sys
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from config import optimizers
from models.training.optim import build_optimizer
from utils import eager

def run():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 3)
    found = []
    for options in (optimizers.Adam(lr=0.1), optimizers.SGD(lr=0.1, momentum=0.9)):
        optimizer = build_optimizer(options, layer)
        for _ in range(2):
            optimizer.zero_grad()
            layer(torch.arange(6.0).view(2, 3)).square().sum().backward()
            eager.step(optimizer)
        found += [value.detach().clone() for value in layer.parameters()]
        for entry in optimizer.state.values():
            found += [value for _, value in sorted(entry.items()) if value is not None]
        optimizer.load_state_dict(optimizer.state_dict())
    with FlopCounterMode(display=False) as counter:
        layer(torch.ones(2, 3))
    return [*found, torch.tensor(counter.get_total_flops())]

without = run()
assert "torch._dynamo" not in sys.modules, "a step imported the compiler"
import torch._dynamo
compiler = run()
assert len(without) == len(compiler) > 8
assert all(torch.equal(one, other) for one, other in zip(without, compiler, strict=True))
assert without[-1] == 36
network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh())
compiled = torch.compile(lambda x: checkpoint(network, x, use_reentrant=False), backend="aot_eager", fullgraph=True)
x = torch.ones(2, 3, requires_grad=True)
(gradient,) = torch.autograd.grad(compiled(x).sum(), x)
(expected,) = torch.autograd.grad(network(x).sum(), x)
assert torch.allclose(gradient, expected)
"""


def test_steps_do_not_import_the_compiler_and_agree_with_those_that_do() -> None:
    done = subprocess.run([sys.executable, "-c", _BOTH_WAYS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
