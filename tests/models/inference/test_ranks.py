"""Ranks that share a store: each job once, also after one of them is lost or all were started again."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from models.inference import ranks as module
from models.inference.jobs import Job
from models.inference.ranks import Ranks, Sharing, shared_with_ranks
from models.inference.sharing import Plan
from utils.errors import InputError
from utils.lock import has_ended, this_process

PLAN = Plan(tuple(Job(Path(f"{i}.png"), Path(f"out/{i}.png")) for i in range(5)), (5.0, 4.0, 3.0, 2.5, 1.0))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("WORLD_SIZE", "2")
    return dist.HashStore()  # type: ignore[attr-defined]


def nothing() -> None:
    pass


def ended_process() -> str:
    """The name of a process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return json.dumps(dataclasses.asdict(dataclasses.replace(this_process(), pid=process.pid, started="1")))


def named(store: Any, rank: int, name: str) -> Ranks:
    """A rank that is played by this process under another name."""
    ranks = Ranks(store, rank, rank)
    ranks.name = name
    return ranks


def done_by(ranks: Sharing, waiting: Callable[[], None] = nothing) -> list[int]:
    done = []
    for job in ranks.take(PLAN, waiting):
        ranks.settle(job, PLAN.work[job], failed=job == 3)
        done.append(job)
    return done


def test_a_process_alone_does_all_in_order() -> None:
    alone = Sharing()
    with alone.preparing() as known:
        assert known is None
    assert done_by(alone) == [0, 1, 2, 3, 4]
    assert (alone.done(), alone.failures(PLAN)) == (15.5, 1)


def test_ranks_follow_the_plan_of_rank_0_and_do_each_job_once(store: Any) -> None:
    first, second = Ranks(store, 0, 0), named(store, 1, "{}")
    shared: list[Plan | None] = []

    def follow() -> None:
        with second.preparing() as plan:
            shared.append(plan)

    waiting = threading.Thread(target=follow)
    waiting.start()
    with first.preparing() as known:
        assert known is None
        assert shared == []
        first.begin(PLAN)
    waiting.join()
    assert shared == [PLAN]
    first_takes, second_takes = first.take(PLAN, nothing), second.take(PLAN, nothing)
    order = [next(first_takes), next(second_takes), next(second_takes), next(first_takes)]
    assert order == [0, 1, 2, 3]
    for job in order:
        first.settle(job, PLAN.work[job], failed=job == 2)
    assert next(first_takes) == 4
    assert first.done() == second.done() == 14.5
    first.settle(4, 1.0, failed=False)
    assert list(first_takes) == list(second_takes) == []
    assert first.failures(PLAN) == second.failures(PLAN) == 1


def test_a_long_plan_goes_through_the_store_in_pieces(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE", 7)
    Ranks(store, 0, 0).begin(PLAN)
    with Ranks(store, 1, 1).preparing() as plan:
        assert plan == PLAN


def test_what_a_lost_rank_has_begun_is_done_by_the_others(store: Any) -> None:
    lost, left = named(store, 1, ended_process()), Ranks(store, 0, 0)
    taken = lost.take(PLAN, nothing)
    assert [next(taken), next(taken)] == [0, 1]
    lost.settle(0, 5.0, failed=False)
    assert done_by(left) == [2, 3, 4, 1]
    assert (left.done(), left.failures(PLAN)) == (15.5, 1)


def test_a_rank_of_another_machine_is_lost_when_it_is_silent(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    elsewhere = json.dumps(dataclasses.asdict(dataclasses.replace(this_process(), machine="another")))
    assert has_ended(dataclasses.replace(this_process(), machine="another")) is None
    far, here = named(store, 1, elsewhere), Ranks(store, 0, 0)
    assert next(far.take(PLAN, nothing)) == 0

    def wait() -> None:
        now[0] += 50
        if now[0] <= 200:
            store.add(f"beat/{elsewhere}", 1)

    assert done_by(here, wait) == [1, 2, 3, 4, 0]
    assert now[0] >= 250 + module.SILENCE - 50
    far.settle(0, 5.0, failed=False)  # it was only slow
    assert here.done() == 15.5


def test_ranks_that_are_started_again_do_what_is_left(store: Any) -> None:
    before = named(store, 0, ended_process())
    before.begin(PLAN)
    taken = before.take(PLAN, nothing)
    for job in (next(taken), next(taken)):
        before.settle(job, PLAN.work[job], failed=job == 1)
    next(taken)
    again = Ranks(store, 0, 0)
    with again.preparing() as known:
        assert known == PLAN  # whatever results are there by now
    assert done_by(again) == [3, 4, 2]
    assert again.failures(PLAN) == 2


def test_bad_input_is_reported_by_rank_0_alone(store: Any) -> None:
    main = Ranks(store, 0, 0)
    other = named(store, 1, ended_process())
    store.set("rank/0/1", other.name)
    with pytest.raises(InputError), main.preparing():
        raise InputError("a word")
    for rank, code in ((other, 0), (named(store, 0, "{}"), 2)):  # also if torchrun starts them again
        store.set("rank/0/1", other.name)
        with pytest.raises(SystemExit, match=rf"^{code}$"), rank.preparing():
            pass


def test_a_run_that_was_reported_is_not_reported_again(store: Any) -> None:
    main = Ranks(store, 0, 0)
    store.set("rank/0/1", ended_process())
    main.begin(PLAN)
    done_by(main)
    main.end(1)
    with pytest.raises(SystemExit, match=r"^1$"), Ranks(store, 0, 0).preparing():
        pass


def test_torchrun_without_a_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    with pytest.raises(InputError, match="torchrun keeps no store"), shared_with_ranks([]):
        pass
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    with shared_with_ranks([]) as sharing:
        assert not sharing.several
