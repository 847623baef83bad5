"""Many images looked at by several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from data.images import scan
from utils.progress import Progress


class Counted(list[int]):
    """Counts what was taken out of it."""

    taken = 0

    def __iter__(self) -> Iterator[int]:
        for item in super().__iter__():
            self.taken += 1
            yield item


def test_results_come_in_order_and_few_items_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "available_cores", lambda: 2)
    items = Counted(range(500))
    ahead = []

    def look(index: int) -> int:
        ahead.append(items.taken - index)
        return -index

    assert scan.in_threads(look, items, "looking") == [-i for i in range(500)]
    assert max(ahead) <= 4 * 2
    assert scan.in_threads(look, [], "looking") == []


def test_the_first_exception_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "available_cores", lambda: 2)
    looked_at = []

    def look(index: int) -> None:
        looked_at.append(index)
        if index == 3:
            raise KeyError(index)

    before = threading.active_count()
    with pytest.raises(KeyError):
        scan.in_threads(look, range(10_000), "looking")
    assert len(looked_at) <= 3 + 4 * 2
    assert threading.active_count() == before


@pytest.mark.parametrize(("rank", "shown"), [(None, True), (0, True), (1, False)])
def test_one_rank_draws_progress(rank: int | None, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: rank is not None)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)
    given: list[bool] = []

    class Noted(Progress):
        def __init__(self, total: int, description: str, **named: Any) -> None:
            given.append(named["shown"])
            super().__init__(total, description, **named)

    monkeypatch.setattr(scan, "Progress", Noted)
    assert scan.in_threads(lambda index: index, [1, 2], "reading") == [1, 2]
    assert given == [shown]
