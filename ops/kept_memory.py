"""Large tensors of the CPU take the memory that others have just freed, while an image is evaluated.

The C library would return it to the system, which hands out every page anew: at 320 x 192 pixels that is 40 % of a
forward pass of HAT. What is kept is bounded by the most that tensors have taken at a time, and given back in the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ops import build
from ops.registry import REFERENCE, environment_choice
from utils.devices import abilities

MEMORY = "memory"
"""The library of ops/csrc."""


@contextlib.contextmanager
def memory_kept(device: torch.device) -> Iterator[None]:
    """Within: what large tensors free is kept for others, in all threads; where the device is not the CPU, nothing.

    Blocks may lie in each other; the outermost gives back what is kept. Where kernels cannot be compiled, memory goes
    back to the system as ever.
    """
    if not _can_keep(device):
        yield
        return
    torch.ops.focalsr.memory_keep()
    try:
        yield
    finally:
        torch.ops.focalsr.memory_return()


def kept_bytes() -> int:
    """Bytes that are kept now: the next tensors take these first."""
    return int(torch.ops.focalsr.memory_kept()) if hasattr(torch.ops.focalsr, "memory_kept") else 0


def _can_keep(device: torch.device) -> bool:
    return (
        abilities(device).in_main_memory and environment_choice() != REFERENCE and build.cpu_extension(MEMORY) is None
    )
