"""Memory that tensors leave to others: in processes of their own, whose pages are counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.inference import upscale as upscaling
from ops import build
from ops.kept_memory import MEMORY, kept_bytes, memory_kept
from ops.registry import ENVIRONMENT
from tests.ops.kernels import require_cpu_kernels
from utils import devices

ROOT = Path(__file__).resolve().parents[2]
HOST = devices.choose("cpu")
MIB = 1 << 20
_PROGRAM = """
import os, resource, threading, torch
from ops.kept_memory import kept_bytes, memory_kept
from utils.devices import choose

torch.set_num_threads(1)
MIB = 1 << 20

def faults(*sizes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(size * MIB, dtype=torch.uint8) for size in sizes]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def size():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") // MIB

before = size()
usual = [faults(48), faults(48)][1]
with memory_kept(choose("cpu")):
    faults(88)
    again, cut, joined = faults(48, 40), faults(*[11] * 8), faults(88)
    survivor = torch.ones(4 * MIB, dtype=torch.uint8)
    faults(60, 30)
    kept, grown = kept_bytes() // MIB, size() - before
    thread = threading.Thread(target=faults, args=(30,))
    thread.start()
    child = os.fork()
    if child == 0:
        faults(30)
        os._exit(0)
    thread.join()
    in_child = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
after = size() - before
assert survivor.sum() == survivor.numel()
del survivor
print(usual, again, cut, joined, kept, grown, in_child, after, kept_bytes())
"""


def test_what_is_freed_is_taken_again_and_bounded_by_what_was_in_use_at_most() -> None:
    require_cpu_kernels(MEMORY)
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    usual, again, cut, joined, kept, grown, in_child, after, left = map(int, done.stdout.split())
    assert max(again, cut, joined) < 200 < usual  # pages of 4 KiB; blocks are cut and joined without new ones
    assert 80 < kept <= grown < 110  # at most 94 MiB of tensors at a time, and a little more
    assert in_child == 0  # the other thread may hold the lock when a child is made
    assert after < 20
    assert left == 0


def test_blocks_lie_in_each_other_and_tensors_outlive_them() -> None:
    require_cpu_kernels(MEMORY)
    with memory_kept(HOST):
        with memory_kept(HOST):
            x = torch.arange(MIB)
            del x
        assert kept_bytes() >= 8 * MIB
        y = torch.arange(MIB)
        y.resize_(2 * MIB)[MIB:] = torch.arange(MIB)  # copied from block to block
    assert kept_bytes() == 0
    assert torch.equal(y, torch.arange(MIB).repeat(2))


def test_a_full_memory_is_reported_as_ever() -> None:
    require_cpu_kernels(MEMORY)
    with memory_kept(HOST), pytest.raises(RuntimeError, match="can't allocate memory"):
        torch.empty(1 << 50)


class Doubling(nn.Module):
    """Nearest neighbours; notes whether what it frees is kept."""

    scale, window_size = 2, None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.kept: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        torch.ones(MIB)
        self.kept.append(kept_bytes() > 0)
        return self.weight * x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_large_images_are_upscaled_with_it_and_small_ones_load_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    require_cpu_kernels(MEMORY)
    network, image = Doubling(), torch.rand(3, 64, 80)
    result = upscaling.upscale(network, image)
    assert network.kept == [True]
    assert kept_bytes() == 0
    monkeypatch.setattr(build, "cpu_extension", lambda part: pytest.fail("it is not needed"))
    monkeypatch.setenv(ENVIRONMENT, "reference")
    assert torch.equal(upscaling.upscale(network, image), result)
    monkeypatch.delenv(ENVIRONMENT)
    upscaling.upscale(network, image[..., :32, :32])
    assert network.kept == [True, False, False]
