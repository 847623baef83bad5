"""Two ways of doing the same work, timed in turns within one run: the ratio is the figure that counts."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ops.kept_memory import memory_kept
from scripts.benchmarks.limits import Cost
from scripts.benchmarks.memory import MemoryMeter
from scripts.benchmarks.needs import Need, missing
from utils.device_memory import device_memory, release_kept_memory
from utils.devices import abilities, present, synchronise
from utils.env import available_memory
from utils.heap import keep_freed_memory, return_freed_memory
from utils.memory import memory_is_full

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
        needs: what a device may not be able to do.
        loaded: modules that are imported before memory is measured, of which then what ``prepare`` loads is a part;
            None: the memory of a call alone.
        keeps_memory: what a call frees stays for the next one, on the CPU: as in ``train.py`` (:mod:`utils.heap`), or
            from image to image of an evaluation (:mod:`ops.kept_memory`).
    """

    name: str
    prepare: Callable[[], Work]
    pilot: Pilot | None = None
    needs: tuple[Need, ...] = ()
    loaded: tuple[str, ...] | None = None
    keeps_memory: Literal["", "training", "evaluation"] = ""


class Program:
    """Work that makes images, which are compared with those of the baseline, and may be a file.

    Args:
        run: makes them, [B, C, H, W] in [0, 1].
        file: that was loaded for it.

    Attributes:
        images: what the last call has made.
    """

    def __init__(self, run: Callable[[], Tensor], file: Path | None = None) -> None:
        self.run, self.file = run, file
        self.images: Tensor | None = None

    def __call__(self) -> None:
        """Make the images."""
        self.images = self.run()


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
    """A comparison, measured or left out; times are medians in ms, memory is the peak beyond what was held before.

    A side without a time was left out: its note says why. Without ours the baseline is not measured either. Where ours
    is a :class:`Program`, the row has the size of its file, and by how many levels of 255 its images differ most.
    """

    key: str
    work: str
    baseline: str
    ours: str
    baseline_ms: float | None
    ours_ms: float | None
    baseline_mib: float | None
    ours_mib: float | None
    device: str = "cpu"
    turns: int = 0
    share: float | None = None
    limit: str | None = None
    baseline_note: str = ""
    ours_note: str = ""
    failed: bool = False
    file_mib: float | None = None
    levels: int | None = None

    @property
    def speed(self) -> float | None:
        """The speed-up: the baseline's time divided by ours."""
        return None if self.baseline_ms is None or self.ours_ms is None else self.baseline_ms / self.ours_ms

    @property
    def memory(self) -> float | None:
        """Peak memory of ours as a part of the baseline's."""
        if self.baseline_mib is None or self.ours_mib is None or self.baseline_mib < 1:
            return None
        return self.ours_mib / self.baseline_mib


@dataclass(frozen=True)
class Effort:
    """How much is spent on a row.

    Attributes:
        repeats: turns, at least; fewer where one takes seconds.
        seconds: further turns until this much time has passed.
        max_seconds: a side that takes longer for one call is left out.
        device: its type, for the groups that have a device.
    """

    repeats: int
    seconds: float
    max_seconds: float
    device: str = "cpu"


class _LeftOutError(Exception):
    """A few words why a side is left out."""


def measure(comparison: Comparison, effort: Effort, meter: MemoryMeter) -> Row:
    """Time both sides in turns, so that a busy moment of the machine meets both; then their memory.

    Where only the baseline exceeds what may be spent, ours is measured alone; where ours does, nothing is.
    """
    device = device_of(comparison, effort)
    # What an earlier row compiled would count for this one: of some graphs of one class, the next runs uncompiled.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    notes: dict[str, str] = {}
    works: dict[str, Work] = {}
    for side in ("ours", "baseline"):
        try:
            works[side] = _ready(comparison, side, effort, device, meter)
        except _LeftOutError as error:
            notes[side] = str(error)
        if "ours" in notes:
            return without_ours(comparison, device, notes["ours"])
    with _Heap(comparison, device) as heap:
        times, lost = _in_turns(works, effort, heap)
    notes.update(lost)
    if "ours" in notes:
        return without_ours(comparison, device, notes["ours"])
    file_mib, levels = _compared(works)
    works.clear()  # their memory is measured from a clean start
    memory = {side: _peak(comparison, side, device, meter) for side in times if comparison.memory}
    medians = {side: statistics.median(record) for side, record in times.items()}
    share, limit = None, None
    if comparison.cost is not None:
        share, limit = meter.limits.share(comparison.cost, medians["ours"], device)
    return Row(
        comparison.key, comparison.work, comparison.baseline.name, comparison.ours.name,
        1000 * medians["baseline"] if "baseline" in medians else None, 1000 * medians["ours"],
        memory.get("baseline"), memory.get("ours"), device, len(times["ours"]), share, limit,
        baseline_note=notes.get("baseline", ""), file_mib=file_mib, levels=levels,
    )  # fmt: skip


def _compared(works: Mapping[str, Work]) -> tuple[float | None, int | None]:
    """MiB of our file, and levels between our images and the baseline's; None where there are none."""
    ours, baseline = (works.get(side) for side in ("ours", "baseline"))
    if not isinstance(ours, Program):
        return None, None
    file_mib = None if ours.file is None else ours.file.stat().st_size / 2**20
    if not isinstance(baseline, Program) or ours.images is None or baseline.images is None:
        return file_mib, None
    a, b = ((program.clamp(0, 1) * 255).round() for program in (ours.images, baseline.images))
    return file_mib, int((a - b).abs().max())


def without_ours(comparison: Comparison, device: str, note: str, *, failed: bool = False) -> Row:
    """The row of a comparison that was not measured.

    Args:
        comparison: which.
        device: that it was meant for.
        note: why, in a few words.
        failed: it raised an error.
    """
    names = comparison.baseline.name, comparison.ours.name
    return Row(
        comparison.key, comparison.work, *names, None, None, None, None, device, ours_note=note, failed=failed
    )  # fmt: skip


def device_of(comparison: Comparison, effort: Effort) -> str:
    """The device of a comparison: that of the run for groups that have one."""
    return effort.device if comparison.group in ON_DEVICE else "cpu"


def prepared(comparison: Comparison, side: str, device: str, *, pilot: bool = False) -> Callable[[], Work]:
    """What prepares a side's work, or its pilot's, with tensors and networks made on a device.

    Args:
        comparison: what is measured.
        side: "baseline" or "ours".
        device: its type, such as "cpu".
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
    """The work of a side; raises where the device cannot do it, or its pilot foretells more than may be spent."""
    chosen: Side = getattr(comparison, side)
    lacking = missing(chosen.needs, device)
    if lacking is not None:
        raise _LeftOutError(f"left out: {lacking}")
    if chosen.pilot is not None:
        small = prepared(comparison, side, device, pilot=True)
        with _memory_errors_named():
            work = small()
            timed(work)
            seconds = timed(work) * chosen.pilot.times
        if seconds > effort.max_seconds:
            raise _LeftOutError(f"left out: about {seconds:.0f} s (--max-seconds {effort.max_seconds:g})")
        del work
        mib = meter.peak(comparison.key, side, small, device, pilot=True)
        free = free_mib(device)
        if mib is not None and free is not None and mib * chosen.pilot.times > free:
            needed = mib * chosen.pilot.times / 1024
            raise _LeftOutError(f"left out: about {needed:.0f} GiB, and {free / 1024:.0f} GiB are free")
    with _memory_errors_named():
        return prepared(comparison, side, device)()


def _peak(comparison: Comparison, side: str, device: str, meter: MemoryMeter) -> float | None:
    """MiB of a side at its peak; None where that is unknown."""
    try:
        with _memory_errors_named():
            return meter.peak(comparison.key, side, prepared(comparison, side, device), device)
    except _LeftOutError:
        return None


def _in_turns(works: dict[str, Work], effort: Effort, heap: _Heap) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of each side's calls, in turns; and why a side has none."""
    lost: dict[str, str] = {}
    calls: dict[str, int] = {}
    slowest = 0.0
    for side, work in list(works.items()):
        try:
            with _memory_errors_named():
                heap.turn_of(side, work)
                first = timed(work)  # compiles, fills caches
                # The first of short calls pays for what the other side has put into the caches.
                calls[side] = 1 if first > _SHORT else math.ceil(_SHORT / max(timed(work), _SHORT / _MOST_CALLS))
            slowest = max(slowest, first)
        except _LeftOutError as error:
            lost[side] = str(error)
            del works[side]
    times: dict[str, list[float]] = {side: [] for side in works}
    repeats = effort.repeats if slowest < 1 else min(effort.repeats, 3 if slowest < 5 else 2)
    started = time.perf_counter()
    for turn in range(_MOST_TURNS if works else 0):
        if turn >= repeats and time.perf_counter() - started >= effort.seconds:
            break
        for side, work in works.items():
            heap.turn_of(side, work)
            times[side].append(timed(work, calls[side]))
    return times, lost


class _Heap(contextlib.AbstractContextManager["_Heap"]):
    """Keeps freed memory for the sides of a comparison that ask for it, and not for the others."""

    def __init__(self, comparison: Comparison, device: str) -> None:
        self.keeps = {"ours": comparison.ours.keeps_memory, "baseline": comparison.baseline.keeps_memory}
        self.device = torch.device(device)
        self.keeping = ""
        self._kept = contextlib.ExitStack()

    def turn_of(self, side: str, work: Work) -> None:
        """Before calls of a side; one that is not timed leaves the memory that the next ones reuse."""
        wanted = self.keeps[side]
        if wanted == self.keeping:
            return
        self._kept.close()
        self.keeping = wanted
        if wanted:
            self._kept.enter_context(memory_kept(self.device) if wanted == "evaluation" else _heap_kept())
            work()

    def __exit__(self, *error: object) -> None:
        """The heap as it was."""
        self._kept.close()


@contextlib.contextmanager
def _heap_kept() -> Iterator[None]:
    keep_freed_memory()
    try:
        yield
    finally:
        return_freed_memory()


@contextlib.contextmanager
def _memory_errors_named() -> Iterator[None]:
    """What does not fit into the memory is a reason to leave a side out, not to end the run."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not memory_is_full(error):
            raise
        raise _LeftOutError("left out: the memory does not suffice") from None


def free_mib(device: str) -> float | None:
    """MiB that one run may take; None where the system does not tell."""
    place = torch.device(device)
    if not abilities(place).in_main_memory:
        gc.collect()
        release_kept_memory(place)  # what torch keeps of earlier rows is free for this one
        memory = device_memory(place)
        return None if memory is None else _SHARE_OF_MEMORY * memory.free / 2**20
    available = available_memory()
    return None if available is None else _SHARE_OF_MEMORY * available / 2**20


def wait_for_all() -> None:
    """Wait until the accelerator of this machine, where there is one, has done its work."""
    kind = present().type
    if kind is not None:
        synchronise(torch.device(kind))


def timed(work: Work, calls: int = 1) -> float:
    """Seconds of one call, the device's work included; the mean of several in a row."""
    wait_for_all()
    started = time.perf_counter()
    for _ in range(calls):
        work()
    wait_for_all()
    return (time.perf_counter() - started) / calls
