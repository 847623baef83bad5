from __future__ import annotations

import torch
from torch import Tensor, nn

from archs.layers.recompute import recomputed


def test_only_the_input_is_kept_and_the_last_product_runs_once() -> None:
    torch.manual_seed(0)
    inner, last = nn.Linear(6, 6).double(), nn.Linear(6, 3).double()
    calls: list[str] = []

    def function(x: Tensor) -> Tensor:
        calls.append("run")
        result: Tensor = last(inner(x).square().sin())
        return result

    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    kept: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter) and tensor.numel() > 0:  # torch 2.6 keeps an empty one
            kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = recomputed(function, x)
    assert kept == [(5, 6)]
    leaves = [x, *inner.parameters(), *last.parameters()]
    found = torch.autograd.grad(y.sum(), leaves)
    assert calls == ["run", "run"]
    expected = torch.autograd.grad(function(x).sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    with torch.no_grad():
        assert torch.equal(recomputed(function, x), y)
