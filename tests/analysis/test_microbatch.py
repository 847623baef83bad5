"""Work in batches of as many items as the memory suffices for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from analysis import microbatch
from analysis.microbatch import MOST, in_batches
from utils.devices import CPU
from utils.memory import FullMemoryError

EACH = 2**20


def work(items: Sequence[int]) -> list[int]:
    held = [torch.empty(EACH, dtype=torch.uint8) for _ in items]
    return [2 * item for item, _ in zip(items, held, strict=True)]


def batches(batch: int | None, items: int = 10) -> list[int]:
    found = list(in_batches(work, range(items), batch, CPU))
    assert [value for _, part in found for value in part] == [2 * item for item in range(items)]
    assert [done for done, part in found] == [len(part) for _, part in found]
    return [done for done, _ in found]


def test_a_number_is_kept_to() -> None:
    assert batches(4) == [4, 4, 2]
    assert batches(1, items=3) == [1, 1, 1]
    assert batches(4, items=0) == []


@pytest.mark.parametrize(("free", "then"), [(3 * EACH + 1, 3), (0, 1), (1000 * EACH, MOST), (None, MOST)])
def test_memory_says_how_many(monkeypatch: pytest.MonkeyPatch, free: int | None, then: int) -> None:
    monkeypatch.setattr(microbatch, "free_memory", lambda device: free)
    assert batches(None, items=1 + 2 * then) == [1, then, then]


def test_full_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def limited(items: Sequence[int]) -> int:
        tried.append(len(items))
        if len(items) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return len(items)

    assert [done for done, _ in in_batches(limited, range(5), 8, CPU)] == [2, 2, 1]
    assert tried == [5, 2, 2, 1]


def test_full_memory_for_one_is_said_in_a_sentence() -> None:
    def impossible(items: Sequence[int]) -> None:
        raise MemoryError

    with pytest.raises(FullMemoryError, match=r"the memory is full: one image at a time.*a smaller image \(--crop\)"):
        list(in_batches(impossible, range(2), None, CPU))
