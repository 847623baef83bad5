"""The ranks that torchrun has started share out the jobs of one run, and rank 0 reports as one process would.

They meet in the store of torchrun's agent, which outlives them. Rank 0 writes the plan there; a rank that is free takes
the next job that nobody has; and what was done, or failed, is written behind it. So ranks of different speed end
together, and none waits for a connection to another:

- After a restart by torchrun (--max-restarts) the ranks find the plan, and what is done: nothing is done twice or left
  out, whether results that existed before were to be replaced or not.
- What a lost process has begun is taken by those that are left. On one machine the system tells that it has ended; a
  process of another machine is lost when it has not been heard of for a while.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from models.distributed import launcher_store, restarts
from models.inference.sharing import Plan
from utils.errors import InputError, WorkerError
from utils.lock import Owner, has_ended, this_process
from utils.progress import share_terminal
from utils.signals import ending_with_parent

BEAT = 5.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one after which a process of another machine is lost
_LOOK = 0.1
_PIECE = 1 << 20  # characters of a value: the store takes 8 MiB
_LEAVING = 10.0  # seconds in which other ranks end by themselves


class Sharing:
    """How the processes of a run share its jobs; this one has no others, and does all of them.

    Attributes:
        is_main: this process reports.
        local_rank: of the processes of this machine, which one this is.
        local_ranks: their number.
        several: there are others, perhaps on other machines.
    """

    is_main, local_rank, local_ranks, several = True, 0, 1, False

    def __init__(self) -> None:
        self._done, self._failed = 0.0, 0

    @contextmanager
    def preparing(self) -> Iterator[Plan | None]:
        """What is done before the first job; gives the plan if it is made already.

        What keeps the process that makes the plan from it ends the others, who say nothing about it.
        """
        yield None

    def begin(self, plan: Plan) -> None:
        """Let the others know the plan, as the last thing that is prepared."""

    def take(self, plan: Plan, waiting: Callable[[], None]) -> Iterator[int]:
        """The numbers of the jobs that this process is to do, until all of the plan are done by somebody.

        Args:
            plan: all jobs.
            waiting: called again and again while others work on the last ones.
        """
        yield from range(len(plan.jobs))

    def settle(self, job: int, work: float, *, failed: bool) -> None:
        """A job is done with."""
        self._done += work
        self._failed += failed

    def done(self) -> float:
        """The work of the jobs that are done with, by any process."""
        return self._done

    def failures(self, plan: Plan) -> int:
        """The number of jobs that have failed, when all are done with."""
        return self._failed

    def end(self, code: int) -> None:
        """The run was reported, and ends with this exit code."""


class Ranks(Sharing):
    """One of the ranks that share a store.

    Args:
        store: a ``torch.distributed.Store`` that all have.
        rank: of this process.
        local_rank: on its machine.
    """

    several = True

    def __init__(self, store: Any, rank: int, local_rank: int) -> None:
        self.store, self.rank, self.local_rank = store, rank, local_rank
        self.is_main, self.local_ranks = rank == 0, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.name = json.dumps(dataclasses.asdict(this_process()))
        self._heard: dict[str, tuple[int, float]] = {}  # process -> its last sign of life, and when it came
        self.store.set(f"rank/{restarts()}/{rank}", self.name)

    @contextmanager
    def preparing(self) -> Iterator[Plan | None]:
        """See the base class; leaves by SystemExit where the run has ended."""
        while True:
            if self.store.check(["ended"]):  # before torchrun has started this one again, or while it was importing
                code = int(self.store.get("ended")) if self.is_main else 0
                self.end(code)
                raise SystemExit(code)
            if self.is_main or self.store.check(["plan"]):
                break
            time.sleep(_LOOK)
        try:
            yield Plan.from_json(self._read("plan")) if self.store.check(["plan"]) else None
        except InputError:
            if self.is_main:
                self.end(2)
            raise

    def begin(self, plan: Plan) -> None:
        """See the base class."""
        if self.is_main and not self.store.check(["plan"]):
            self._write("plan", plan.to_json())

    def take(self, plan: Plan, waiting: Callable[[], None]) -> Iterator[int]:
        """See the base class."""
        for job in range(len(plan.jobs)):
            if self._claim(job, ""):
                yield job
        left = self._unsettled(range(len(plan.jobs)))
        while left:
            for job in left:
                owner = self.store.get(f"owner/{job}").decode()
                if self._is_lost(owner) and self._claim(job, owner):
                    yield job
            waiting()
            time.sleep(_LOOK)
            left = self._unsettled(left)

    def settle(self, job: int, work: float, *, failed: bool) -> None:
        """See the base class."""
        if self.store.add(f"ends/{job}", 1) == 1:  # else another rank has done it too
            self.store.add("done", round(work * 1000))
        self.store.set(f"outcome/{job}", "failed" if failed else "done")

    def done(self) -> float:
        """See the base class."""
        return float(self.store.add("done", 0)) / 1000

    def failures(self, plan: Plan) -> int:
        """See the base class."""
        return sum(self.store.get(f"outcome/{job}") == b"failed" for job in range(len(plan.jobs)))

    def end(self, code: int) -> None:
        """See the base class; waits some seconds for other ranks of this machine, whom torchrun would end."""
        if self.is_main:
            self.store.set("ended", str(code))
        deadline = time.monotonic() + _LEAVING
        while code != 0 and time.monotonic() < deadline and not self._is_last():
            time.sleep(_LOOK)

    def _claim(self, job: int, before: str) -> bool:
        """Take a job that nobody has, or that the process named ``before`` has lost."""
        return bool(self.store.compare_set(f"owner/{job}", before, self.name).decode() == self.name)

    def _unsettled(self, jobs: Sequence[int]) -> list[int]:
        return [job for job in jobs if not self.store.check([f"outcome/{job}"])]

    def _is_lost(self, name: str) -> bool:
        ended = has_ended(self._owner(name))
        if ended is not None:
            return ended
        now, beats = time.monotonic(), self.store.add(f"beat/{name}", 0)
        known, since = self._heard.get(name, (-1, now))
        if known != beats:
            self._heard[name] = beats, now
            return False
        return now - since > SILENCE

    def _is_last(self) -> bool:
        """Whether all others of this machine have been here, and have ended."""
        size = int(os.environ["WORLD_SIZE"])
        keys = [f"rank/{restarts()}/{rank}" for rank in range(size) if rank != self.rank]
        return self.store.check(keys) and all(
            has_ended(self._owner(self.store.get(key).decode())) is not False for key in keys
        )

    def _owner(self, name: str) -> Owner:
        return Owner(**json.loads(name))

    def _write(self, key: str, text: str) -> None:
        pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
        for number, piece in enumerate(pieces):
            self.store.set(f"{key}/{number}", piece)
        self.store.set(key, str(len(pieces)))  # last: now it is there

    def _read(self, key: str) -> str:
        count = int(self.store.get(key))
        return "".join(self.store.get(f"{key}/{number}").decode() for number in range(count))


@contextmanager
def shared_with_ranks(argv: Sequence[str]) -> Iterator[Sharing]:
    """Share the work with the ranks of torchrun, if it has started this process, else with nobody.

    Args:
        argv: the command line, which is the same for all ranks.

    Raises:
        InputError: torchrun keeps no store for its ranks.
        WorkerError: torchrun cannot be reached any more.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run is None:
        yield Sharing()
        return
    prefix = f"focalsr/upscale/{run}/{hashlib.sha256(json.dumps(list(argv)).encode()).hexdigest()}"
    try:
        stores = [launcher_store() for _ in range(2)]
        if None in stores:
            raise InputError(
                "torchrun keeps no store for its ranks here; leave its --rdzv-backend out, or let it be c10d"
            )
        own, beating = (dist.PrefixStore(prefix, store) for store in stores)  # type: ignore[attr-defined]
        rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
        if rank > 0:
            share_terminal()
        ranks = Ranks(own, rank, local_rank)
        with ending_with_parent("torchrun"), _signs_of_life(beating, ranks.name):
            yield ranks
    except dist.DistError as error:
        raise WorkerError(
            "the connection to torchrun is lost, whose own message says why; the same command goes on with what is left"
        ) from error


@contextmanager
def _signs_of_life(store: Any, name: str) -> Iterator[None]:
    """Signs of life of a process from a thread, which has a connection of its own."""
    left = threading.Event()

    def sign() -> None:
        while not left.wait(BEAT):
            try:
                store.add(f"beat/{name}", 1)
            except dist.DistError:
                return  # the main thread finds out

    thread = threading.Thread(target=sign, daemon=True, name="signs of life")
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
