"""Two ways of doing the same work, timed in turns within one run: the ratio is the figure that counts."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

Work = Callable[[], object]
ROOT = Path(__file__).resolve().parents[2]


class Side(NamedTuple):
    """One way of doing the work.

    Attributes:
        name: what it is, for the table.
        prepare: builds what is needed and returns the function to time.
    """

    name: str
    prepare: Callable[[], Work]


@dataclass(frozen=True)
class Comparison:
    """The same work done in two ways.

    Attributes:
        key: names it on the command line, ``GROUP/NAME``.
        work: shapes, type and device, for the table.
        baseline: the plain way.
        ours: the way that is claimed to be better.
        quick: part of ``--quick``.
    """

    key: str
    work: str
    baseline: Side
    ours: Side
    quick: bool = True


@dataclass(frozen=True)
class Row:
    """A measured comparison; times are medians in milliseconds, memory is the peak beyond what was held before."""

    key: str
    work: str
    baseline: str
    ours: str
    baseline_ms: float
    ours_ms: float
    baseline_mib: float | None
    ours_mib: float | None

    @property
    def speed(self) -> float:
        """How many times faster ours is."""
        return self.baseline_ms / self.ours_ms

    @property
    def memory(self) -> float | None:
        """Peak memory of ours as a part of the baseline's."""
        if self.baseline_mib is None or self.ours_mib is None or self.baseline_mib < 1:
            return None
        return self.ours_mib / self.baseline_mib


def measure(comparison: Comparison, repeats: int, seconds: float) -> Row:
    """Time both sides in turns, so that a busy moment of the machine meets both; then their memory.

    Args:
        comparison: what to measure.
        repeats: turns, at least; fewer where one takes seconds.
        seconds: further turns until this much time has passed.
    """
    sides = (comparison.baseline.prepare(), comparison.ours.prepare())
    times: tuple[list[float], list[float]] = ([], [])
    slowest = max(_timed(work) for work in sides)  # compiles, fills caches
    repeats = repeats if slowest < 1 else min(repeats, 3 if slowest < 5 else 2)
    started = time.perf_counter()
    while len(times[0]) < repeats or time.perf_counter() - started < seconds:
        for work, record in zip(sides, times, strict=True):
            record.append(_timed(work))
        if len(times[0]) >= 50:
            break
    baseline_ms, ours_ms = (1000 * statistics.median(record) for record in times)
    memory = [peak_memory(comparison.key, side) for side in ("baseline", "ours")]
    return Row(
        comparison.key, comparison.work, comparison.baseline.name, comparison.ours.name, baseline_ms, ours_ms, *memory
    )


def peak_memory(key: str, side: str) -> float | None:
    """MiB that the work needs at its peak, measured in a process of its own; None where the system cannot tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    # Fixed thresholds make the allocator give memory back at once, so that the peak is the work's own.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, str(ROOT / "scripts/benchmark.py"), "--memory-of", key, side]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def own_peak(work: Work) -> float:
    """MiB that one call of ``work`` adds to this process at its peak (Linux)."""
    work()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    work()
    return (_status("VmHWM") - before) / 1024


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| comparison | work | baseline | ours | baseline ms | ours ms | times faster | memory, ours / baseline |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        memory = "-" if row.memory is None else f"{row.memory:.2f} ({row.ours_mib:.0f} / {row.baseline_mib:.0f} MiB)"
        lines.append(
            f"| {row.key} | {row.work} | {row.baseline} | {row.ours} | {row.baseline_ms:.3g} | {row.ours_ms:.3g} "
            f"| {row.speed:.2f} | {memory} |"
        )
    return "\n".join(lines)


def _timed(work: Work) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _status(name: str) -> int:
    """A size in KiB from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {name}")
