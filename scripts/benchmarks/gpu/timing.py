"""Time and memory of one piece of work: CUDA events around each call, and the allocator's peak."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from scripts.benchmarks.measure import Work


class Protocol(NamedTuple):
    """How a figure is measured.

    Attributes:
        warm_ups: calls before those that count, the first one not among them.
        calls: that count, each between two events.
        seconds: warm-ups, and then calls, end early after half of this.
        window: work that is done in less than this many seconds is called several times between two events, so that
            the time of launching it does not count.
        wall: read a clock of the host instead of events: the work is done by the host too.
    """

    warm_ups: int = 3
    calls: int = 20
    seconds: float = 4.0
    window: float = 0.0
    wall: bool = False


class Timing(NamedTuple):
    """What was measured.

    Attributes:
        ms: median of the calls.
        low: the fastest.
        high: the slowest.
        mib: most memory of the device in use at a time, weights and inputs included; None where nobody counts it.
        calls: that count.
        warm_ups: calls before them, the first one not among them.
    """

    ms: float
    low: float
    high: float
    mib: float | None
    calls: int
    warm_ups: int


def measured(prepare: Callable[[], Work], protocol: Protocol, device: str) -> Timing:
    """Measure a piece of work on a device.

    Args:
        prepare: makes the work; tensors and networks that it makes are made on the device.
        protocol: how.
        device: "cpu" or "cuda"; on the CPU the clock is read, and no memory is counted.
    """
    on_gpu = device == "cuda"
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        held = torch.cuda.memory_allocated()
    with torch.device(device):
        torch.manual_seed(0)
        work = prepare()
    clock = wall_seconds if protocol.wall or not on_gpu else _events
    work()  # compiles, fills caches
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    several = max(1, math.ceil(protocol.window / max(clock(work, 1), 1e-6))) if protocol.window else 1
    warm_ups = len(_calls(clock, work, several, protocol.warm_ups, protocol.seconds / 2))
    times = _calls(clock, work, several, max(1, protocol.calls), protocol.seconds / 2)
    mib = (torch.cuda.max_memory_allocated() - held) / 2**20 if on_gpu else None
    return Timing(1000 * statistics.median(times), 1000 * min(times), 1000 * max(times), mib, len(times), warm_ups)


def _calls(clock: Callable[[Work, int], float], work: Work, several: int, count: int, seconds: float) -> list[float]:
    """Seconds of each call, until there are enough or the time is up."""
    started = time.perf_counter()
    found: list[float] = []
    while len(found) < count and (not found or time.perf_counter() - started < seconds):
        found.append(clock(work, several))
    return found


def _events(work: Work, several: int) -> float:
    """Seconds of a call between two CUDA events on the current stream."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(several):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000 / several


def wall_seconds(work: Work, several: int) -> float:
    """Seconds of a call by the host's clock, the device's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(several):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / several
