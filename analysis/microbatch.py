"""Work on many images, as many at a time as the memory suffices for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from models.inference.memory import free_memory, peak_of
from utils.device_memory import release_kept_memory
from utils.memory import FullMemoryError, memory_for

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 8
"""Images at a time, at most, where the number is chosen by memory."""


def in_batches(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item], batch: int | None, device: torch.device
) -> Iterator[tuple[int, Result]]:
    """Do ``work`` on all items in batches; yields how many were done, and the result.

    Without a number the first item is done alone, and the memory that it takes says how many of the others are done at
    a time. Where the memory is full nevertheless, half as many are tried.

    Args:
        work: computes on the device; may be called again with fewer of the same items.
        items: in order.
        batch: items at a time; None: chosen by memory.
        device: where the memory is taken.

    Raises:
        FullMemoryError: the memory does not suffice for one item.
    """
    start, size = 0, batch or 1
    while start < len(items):
        chosen = items[start : start + size]  # the first alone, if it is to be measured
        measured = batch is None and start == 0
        try:
            with memory_for("one image at a time", "a smaller image (--crop), a smaller network, or another --device"):
                if measured:
                    result, bytes_each = peak_of(device, lambda: work(items[:1]))
                    size = _fitting(bytes_each, device)
                else:
                    result = work(chosen)
        except FullMemoryError:
            if len(chosen) == 1:
                raise
            size = len(chosen) // 2
            release_kept_memory(device)
            continue
        yield len(chosen), result
        start += len(chosen)


def _fitting(bytes_each: int, device: torch.device) -> int:
    free = free_memory(device)
    return MOST if free is None else max(1, min(MOST, free // max(1, bytes_each)))
