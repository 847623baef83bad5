"""Two ways of doing the same work, timed in turns within one run: the ratio is the figure that counts."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from scripts.benchmarks.limits import Cost
from scripts.benchmarks.memory import MemoryMeter
from utils.env import available_memory

Work = Callable[[], object]
_MOST_TURNS = 50
_SHORT = 0.02  # seconds; shorter calls are timed several in a row
_MOST_CALLS = 100
_SHARE_OF_MEMORY = 0.8  # of what is free; the rest is for what an estimate does not see
# Groups whose tensors and networks are made on the device that is measured; the others prepare data on the host.
ON_DEVICE = ("ops", "networks", "train")


class Pilot(NamedTuple):
    """A smaller run of a side, from which time and memory of the whole one are estimated.

    Attributes:
        prepare: as :attr:`Side.prepare`.
        times: how many times more work the whole run is.
    """

    prepare: Callable[[], Work]
    times: float


class Side(NamedTuple):
    """One way of doing the work.

    Attributes:
        name: what it is, for the table.
        prepare: builds what is needed and returns the function to time.
        pilot: tells beforehand what the run will take; None for work that is small.
    """

    name: str
    prepare: Callable[[], Work]
    pilot: Pilot | None = None


@dataclass(frozen=True)
class Comparison:
    """The same work done in two ways.

    Attributes:
        key: names it on the command line, ``GROUP/NAME``.
        work: shapes and type, for the table.
        baseline: the plain way.
        ours: the way that is claimed to be better.
        quick: part of ``--quick``.
        large: only measured with ``--all`` or when asked for by name.
        cost: what the work needs at least, for the share of the machine's limit; None where that has no meaning.
        memory: measure it; work that is done by other processes has none of its own.
    """

    key: str
    work: str
    baseline: Side
    ours: Side
    quick: bool = True
    large: bool = False
    cost: Cost | None = None
    memory: bool = True

    @property
    def group(self) -> str:
        """The part of the key before the slash."""
        return self.key.partition("/")[0]


@dataclass(frozen=True)
class Row:
    """A measured comparison; times are medians in milliseconds, memory is the peak beyond what was held before.

    A baseline that was left out has no time; ``note`` says why.
    """

    key: str
    work: str
    baseline: str
    ours: str
    baseline_ms: float | None
    ours_ms: float
    baseline_mib: float | None
    ours_mib: float | None
    device: str = "cpu"
    turns: int = 0
    share: float | None = None
    limit: str | None = None
    note: str = ""

    @property
    def speed(self) -> float | None:
        """How many times faster ours is."""
        return None if self.baseline_ms is None else self.baseline_ms / self.ours_ms

    @property
    def memory(self) -> float | None:
        """Peak memory of ours as a part of the baseline's."""
        if self.baseline_mib is None or self.ours_mib is None or self.baseline_mib < 1:
            return None
        return self.ours_mib / self.baseline_mib


class LeftOut(NamedTuple):
    """A comparison that was not measured, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Effort:
    """How much is spent on a row.

    Attributes:
        repeats: turns, at least; fewer where one takes seconds.
        seconds: further turns until this much time has passed.
        max_seconds: a side that takes longer for one call is left out.
        device: "cpu" or "cuda", for the groups that have a device.
    """

    repeats: int
    seconds: float
    max_seconds: float
    device: str = "cpu"


class _TooMuchError(Exception):
    """One sentence why a side is left out."""


def measure(comparison: Comparison, effort: Effort, meter: MemoryMeter) -> Row | LeftOut:
    """Time both sides in turns, so that a busy moment of the machine meets both; then their memory.

    Where only the baseline exceeds what may be spent, ours is measured alone.
    """
    device = effort.device if comparison.group in ON_DEVICE else "cpu"
    note = ""
    try:
        ours = _ready(comparison, "ours", effort, device, meter)
    except _TooMuchError as error:
        return LeftOut(comparison.key, f"{comparison.ours.name}: {error}")
    works = {"ours": ours}
    try:
        works["baseline"] = _ready(comparison, "baseline", effort, device, meter)
    except _TooMuchError as error:
        note = str(error)
    times, lost = _in_turns(works, effort)
    if "ours" in lost:
        return LeftOut(comparison.key, f"{comparison.ours.name}: {lost['ours']}")
    note = lost.get("baseline", note)
    del works, ours  # their memory is measured from a clean start
    memory = {
        side: meter.peak(comparison.key, side, prepared(comparison, side, device), device)
        for side in times
        if comparison.memory
    }
    medians = {side: statistics.median(record) for side, record in times.items()}
    share, limit = None, None
    if comparison.cost is not None:
        share, limit = meter.limits.share(comparison.cost, medians["ours"], device)
    return Row(
        comparison.key, comparison.work, comparison.baseline.name, comparison.ours.name,
        1000 * medians["baseline"] if "baseline" in medians else None, 1000 * medians["ours"],
        memory.get("baseline"), memory.get("ours"), device, len(times["ours"]), share, limit, note,
    )  # fmt: skip


def prepared(comparison: Comparison, side: str, device: str, *, pilot: bool = False) -> Callable[[], Work]:
    """What prepares a side's work, or its pilot's, with tensors and networks made on a device.

    Args:
        comparison: what is measured.
        side: "baseline" or "ours".
        device: "cpu" or "cuda".
        pilot: the smaller run.
    """
    chosen: Side = getattr(comparison, side)
    prepare = chosen.prepare
    if pilot:
        assert chosen.pilot is not None
        prepare = chosen.pilot.prepare

    def on_device() -> Work:
        # Inside the context torch.rand and layers make what they make on the device; calls are timed outside of it.
        with torch.device(device) if comparison.group in ON_DEVICE else contextlib.nullcontext():
            torch.manual_seed(0)
            return prepare()

    return on_device


def _ready(comparison: Comparison, side: str, effort: Effort, device: str, meter: MemoryMeter) -> Work:
    """The work of a side; raises where its pilot foretells more than may be spent."""
    chosen: Side = getattr(comparison, side)
    if chosen.pilot is not None:
        small = prepared(comparison, side, device, pilot=True)
        work = small()
        with _memory_told():
            timed(work)
            seconds = timed(work) * chosen.pilot.times
        if seconds > effort.max_seconds:
            raise _TooMuchError(
                f"estimated {seconds:.0f} s a call, more than the {effort.max_seconds:.0f} s of --max-seconds"
            )
        del work
        mib = meter.peak(comparison.key, side, small, device, pilot=True)
        free = free_mib(device)
        if mib is not None and free is not None and mib * chosen.pilot.times > free:
            needed = mib * chosen.pilot.times / 1024
            raise _TooMuchError(f"estimated {needed:.0f} GiB, more than the {free / 1024:.0f} GiB that are free")
    with _memory_told():
        return prepared(comparison, side, device)()


def _in_turns(works: dict[str, Work], effort: Effort) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of each side's calls, in turns; and why a side has none."""
    lost: dict[str, str] = {}
    calls: dict[str, int] = {}
    slowest = 0.0
    for side, work in list(works.items()):
        try:
            with _memory_told():
                first = timed(work)  # compiles, fills caches
                # The first of short calls pays for what the other side has put into the caches.
                calls[side] = 1 if first > _SHORT else math.ceil(_SHORT / max(timed(work), _SHORT / _MOST_CALLS))
            slowest = max(slowest, first)
        except _TooMuchError as error:
            lost[side] = str(error)
            del works[side]
    times: dict[str, list[float]] = {side: [] for side in works}
    repeats = effort.repeats if slowest < 1 else min(effort.repeats, 3 if slowest < 5 else 2)
    started = time.perf_counter()
    for turn in range(_MOST_TURNS if works else 0):
        if turn >= repeats and time.perf_counter() - started >= effort.seconds:
            break
        for side, work in works.items():
            times[side].append(timed(work, calls[side]))
    return times, lost


@contextlib.contextmanager
def _memory_told() -> Iterator[None]:
    """What does not fit into the memory is a reason to leave a side out, not to end the run."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise _TooMuchError("the memory of the device does not suffice") from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise _TooMuchError("the memory does not suffice") from None


def free_mib(device: str) -> float | None:
    """MiB that one run may take; None where the system does not tell."""
    if device == "cuda":
        return _SHARE_OF_MEMORY * torch.cuda.mem_get_info()[0] / 2**20
    available = available_memory()
    return None if available is None else _SHARE_OF_MEMORY * available / 2**20


def timed(work: Work, calls: int = 1) -> float:
    """Seconds of one call, the device's work included; the mean of several in a row."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(calls):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / calls
