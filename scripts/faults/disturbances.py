"""What happens to a training: which disturbance, when, drawn from a seed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from scripts.faults.processes import PATIENCE, Child
from scripts.faults.settings import NAME, Setting
from scripts.faults.writing import BROKEN, FULL, QUOTA, Call, WriteFault

EXIT_CODES: dict[str, tuple[int, ...]] = {
    "SIGKILL": (-signal.SIGKILL,),
    "SIGTERM": (143, -signal.SIGTERM),
    "SIGTERM twice": (143, -signal.SIGTERM),
    "SIGINT": (130, -signal.SIGINT),
    "SIGUSR1": (138, -signal.SIGUSR1),
    "SIGHUP": (129, -signal.SIGHUP),
    "a worker process killed": (1,),
    "disk full": (1,),
    "quota exceeded": (1,),
    "input/output error on write": (1,),
    "input/output error on fsync": (1,),
    "quota exceeded on close": (1,),
    "file system full": (1,),
    "a second run in the folder": (-signal.SIGKILL,),  # of the first one, which is killed after the second has left
    "a rank killed": (1,),
    "a rank killed, restarted": (-signal.SIGKILL,),  # killed again after that
    "the launcher of the ranks killed": (-signal.SIGKILL,),
    "SIGTERM to the launcher of the ranks": (1, -signal.SIGTERM),
    "none": (),
}
"""Of a run that a disturbance ends; 0 where the training ended before. -15 is how a process ends that has no handler
yet, or none any more, for SIGTERM; a shell reports it as 143."""

_CALLS: dict[str, tuple[Call, int]] = {
    "disk full": ("write", FULL),
    "quota exceeded": ("write", QUOTA),
    "input/output error on write": ("write", BROKEN),
    "input/output error on fsync": ("fsync", BROKEN),
    "quota exceeded on close": ("close", QUOTA),
}
SIGNALS = {
    "SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGTERM twice": signal.SIGTERM, "SIGINT": signal.SIGINT,
    "SIGUSR1": signal.SIGUSR1, "SIGHUP": signal.SIGHUP, "a second run in the folder": signal.SIGKILL,
    "the launcher of the ranks killed": signal.SIGKILL, "SIGTERM to the launcher of the ranks": signal.SIGTERM,
}  # fmt: skip
_OF_ONE = {
    "SIGKILL": 6.0, "SIGTERM": 2.0, "SIGTERM twice": 0.5, "SIGINT": 1.0, "SIGUSR1": 1.0, "SIGHUP": 0.5,
    **dict.fromkeys(_CALLS, 0.7), "a second run in the folder": 1.0,
}  # fmt: skip
_OF_RANKS = {
    "a rank killed": 2.0, "a rank killed, restarted": 2.0, "the launcher of the ranks killed": 2.0,
    "SIGTERM to the launcher of the ranks": 1.0, "a second run in the folder": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """When it happens.

    Attributes:
        kind: "start": ``delay`` seconds after the start; "iteration": that long after ``count`` more iterations;
            "writing": while the checkpoint file number ``count`` is written.
        count: of iterations, or files.
        delay: seconds.
    """

    kind: Literal["start", "iteration", "writing"]
    count: int
    delay: float

    def __str__(self) -> str:
        after = f"{1000 * self.delay:.1f} ms after "
        return after + {
            "start": "the start", "iteration": f"{self.count} iterations", "writing": f"file {self.count} was begun",
        }[self.kind]  # fmt: skip


@dataclass(frozen=True)
class Disturbance:
    """What happens to a run, and when.

    Attributes:
        kind: a key of :data:`EXIT_CODES`.
        moment: of its beginning.
        fault: of the disk, which has its own moment.
        which: picks one of several processes.
    """

    kind: str
    moment: Moment
    fault: WriteFault | None = None
    which: int = 0

    def __str__(self) -> str:
        if self.fault is not None:
            return f"{self.kind} after {self.fault.after:,} bytes"
        return f"{self.kind} {self.moment}"


def draw(random: np.random.Generator, setting: Setting, *, small_disk: bool) -> Disturbance:
    """A disturbance that suits a setting.

    Args:
        random: decides.
        setting: of the training.
        small_disk: the run writes to a file system of its own, which can be filled.
    """
    weights = dict(_OF_RANKS if setting.ranks > 1 else _OF_ONE)
    if setting.workers and setting.ranks == 1:
        weights["a worker process killed"] = 1.5
    if small_disk:
        weights["file system full"] = 1.0
    kinds = sorted(weights)
    shares = np.array([weights[kind] for kind in kinds])
    kind = kinds[int(random.choice(len(kinds), p=shares / shares.sum()))]
    fault = None
    if kind in _CALLS:
        call, code = _CALLS[kind]
        fault = WriteFault(call, code, int(10 ** random.uniform(2, 6)))
    return Disturbance(kind, _draw_moment(random, kind, setting), fault, int(random.integers(1 << 16)))


def _draw_moment(random: np.random.Generator, kind: str, setting: Setting) -> Moment:
    """Not before the first iteration where the process that it happens to is there only then."""
    sort = random.choice(["start", "iteration", "writing"], p=[0.1, 0.5, 0.4])
    count, delay = int(random.integers(1, 12)), float(random.uniform(0, 0.03))
    if kind in ("a second run in the folder", "a worker process killed") or (sort == "start" and setting.ranks > 1):
        sort = "iteration"
    if sort == "start":
        return Moment("start", 0, float(random.uniform(0, 1.5)))
    if sort == "writing":
        return Moment("writing", (count + 2) // 3, float(random.uniform(0, 0.004)))
    return Moment("iteration", count, delay)


def wait_for(moment: Moment, child: Child, place: Path) -> bool:
    """Wait for a moment of a run; False: it has ended before, or the moment does not come."""
    if moment.kind == "start":
        return child.wait(moment.delay) is None
    reached = _iterations(child.log) if moment.kind == "iteration" else _files(place)
    pause = 0.002 if moment.kind == "iteration" else 0.0002  # a file is there for a millisecond
    until = time.monotonic() + PATIENCE
    while reached() < moment.count:
        if child.code() is not None or time.monotonic() > until:
            return False
        time.sleep(pause)
    time.sleep(moment.delay)
    return child.code() is None


def _iterations(log: Path) -> Callable[[], int]:
    """A count of the iterations that a log reports, which reads each line once."""
    file, count = log.open("rb"), 0

    def counted() -> int:
        nonlocal count
        count += file.read().count(b"iter: ")
        return count

    return counted


def _files(place: Path) -> Callable[[], int]:
    """A count of the checkpoint files that were begun from now on."""
    folders = [place / "experiments" / NAME / name for name in ("models", "training_states")]

    def unfinished() -> set[str]:
        return {path.name for folder in folders if folder.is_dir() for path in folder.glob(".*.part")}

    before, seen = unfinished(), set[str]()

    def counted() -> int:
        seen.update(unfinished() - before)
        return len(seen)

    return counted


def happen(disturbance: Disturbance, child: Child, victims: Sequence[int]) -> None:
    """Send the signals of a disturbance.

    Args:
        disturbance: which.
        child: the run, or the agent of its ranks.
        victims: its worker processes, or its ranks.
    """
    if disturbance.kind in SIGNALS:
        child.send(SIGNALS[disturbance.kind])
    elif victims:
        with suppress(ProcessLookupError):
            os.kill(sorted(victims)[disturbance.which % len(victims)], signal.SIGKILL)
    if disturbance.kind == "SIGTERM twice":
        time.sleep(disturbance.which / (1 << 16) * 0.02)
        child.send(signal.SIGTERM)
