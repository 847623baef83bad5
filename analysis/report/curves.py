"""The curves of a training run from its ``metrics.jsonl``, and thinning them to what can be seen."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.report.model import Curve, Group, Series
from utils.errors import InputError
from utils.reading import is_regular
from utils.records import each_record

RECORDS = "metrics.jsonl"
MOST_POINTS = 2000
"""Points of a curve on a page: more than a screen has columns."""
SPEEDS: Mapping[str, tuple[str, Group, float]] = {
    "images_per_second": ("images/s", "speed", 1),
    "data_share": ("data wait, share of the time", "speed", 1),
    "memory": ("memory, GiB", "other", 2**-30),
}
"""Figures about the machine: key of a record -> title, group, factor."""
_ORDER: tuple[Group, ...] = ("loss", "rate", "score", "speed", "other")


@dataclass(frozen=True)
class Points:
    """A curve with all its points.

    Attributes:
        group: what it is about.
        steps: [n] iterations, ascending; int64.
        values: [n] float64; NaN where the run has written none, or one that is not finite.
    """

    group: Group
    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def known(self) -> Points:
        """The points that have a value."""
        there = np.isfinite(self.values)
        return Points(self.group, self.steps[there], self.values[there])


@dataclass(frozen=True)
class RunCurves:
    """What a run has logged.

    Attributes:
        name: of its folder.
        curves: title -> points, in the order of their groups.
        dropped: numbers of the lines of the file that are no records.
    """

    name: str
    curves: Mapping[str, Points]
    dropped: tuple[int, ...] = ()

    @property
    def last(self) -> int:
        """The last iteration on record; 0 where there is none."""
        return max((int(points.steps[-1]) for points in self.curves.values() if len(points.steps)), default=0)


def read_curves(path: Path) -> RunCurves:
    """The curves of a run; the file is read line by line, and a point of a curve takes 16 bytes.

    Where the iterations begin again (a run that was resumed from an earlier state), the later records count.

    Args:
        path: folder of the run, or its ``metrics.jsonl``.

    Raises:
        InputError: there is no such file, nothing in it, or no records of a training run.
    """
    file = path / RECORDS if path.is_dir() else path
    if not is_regular(file):
        raise InputError(f"{file}: there is no such file; name the folder of a training run")
    found: dict[str, tuple[Group, array[int], array[float]]] = {}
    dropped = []
    for number, _, record in each_record(file):
        if record is None:
            dropped.append(number)
            continue
        for title, group, value in _values(record):
            _, steps, values = found.setdefault(title, (group, array("q"), array("d")))
            steps.append(record["step"])
            values.append(np.nan if value is None else value)
    if dropped and not found:
        raise InputError(f"{file}, line {dropped[0]}: no record of a training run; name {RECORDS} of one")
    if not found:
        raise InputError(f"{file}: holds no records")
    ordered = sorted(found.items(), key=lambda item: _ORDER.index(item[1][0]))
    curves = {title: _in_order(Points(own[0], np.array(own[1]), np.array(own[2]))) for title, own in ordered}
    return RunCurves(file.resolve().parent.name, curves, tuple(dropped))


def _values(record: Mapping[str, Any]) -> Iterator[tuple[str, Group, float | None]]:
    """The figures of a record: title, group, value."""
    if record["kind"] == "val":
        for metric, value in record["scores"].items():
            yield f"{record['dataset']}: {metric}", "score", value
        return
    for key, value in record.items():
        if key.startswith(("l_", "out_")):
            yield key, "loss", value
        elif key == "lr" or key.startswith("lr_"):
            yield key, "rate", value[0]
        elif key.startswith("grad_norm"):
            yield key, "other", value
        elif key in SPEEDS:
            title, group, factor = SPEEDS[key]
            if key != "memory" or value:  # 0 means that it is unknown
                yield title, group, None if value is None else value * factor


def _in_order(points: Points) -> Points:
    """Without the points that later ones of the same or an earlier iteration take the place of; no infinity."""
    values = np.where(np.isfinite(points.values), points.values, np.nan)
    # The least step that comes after each point: in place of what comes after the last, one that is never reached.
    least = np.minimum.accumulate(np.append(points.steps[1:], np.iinfo(np.int64).max)[::-1])[::-1]
    kept = points.steps < least
    return Points(points.group, points.steps[kept], values[kept])


def series_of(run: int, points: Points, most: int = MOST_POINTS) -> Series:
    """A curve as the page draws it: of more than ``most`` points, means with the least and the largest value.

    The iterations are divided into ``most`` parts of equal length. Values keep six digits.

    Args:
        run: index of the run.
        points: of the curve.
        most: number of points that are drawn.
    """
    steps, values = points.steps, points.values
    if len(steps) <= most:
        return Series(run, tuple(steps.tolist()), _rounded(values))
    span = int(steps[-1]) - int(steps[0]) + 1
    part = (steps - steps[0]) * (most / span) // 1
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    ends = np.append(starts[1:], len(steps)) - 1
    there = np.isfinite(values)
    count = np.add.reduceat(there, starts, dtype=np.int64)
    total = np.add.reduceat(np.where(there, values, 0.0), starts)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    middle = (steps[starts] + steps[ends]) // 2
    low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    if np.array_equal(low, high, equal_nan=True):
        return Series(run, tuple(middle.tolist()), _rounded(low))
    return Series(run, tuple(middle.tolist()), _rounded(mean), _rounded(low), _rounded(high))


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values.tolist())


def charts(runs: Mapping[int, RunCurves]) -> tuple[Curve, ...]:
    """A chart for each title that any run has, with a series for each run that has it.

    Args:
        runs: index of a run of the report -> its curves.
    """
    titles = {title: points.group for run in runs.values() for title, points in run.curves.items()}
    made = []
    for title, group in sorted(titles.items(), key=lambda item: _ORDER.index(item[1])):
        own = {index: run.curves[title] for index, run in runs.items() if title in run.curves}
        made.append(Curve(title, group, _suits_logarithm(title, own), tuple(map(series_of, own, own.values()))))
    return tuple(made)


def _suits_logarithm(title: str, curves: Mapping[int, Points]) -> bool:
    """Whether values are of several magnitudes by their nature, and all above 0."""
    if not title.startswith(("l_", "grad_norm")):
        return False
    known = [points.known.values for points in curves.values()]
    return all(bool((values > 0).all()) for values in known) and any(len(values) for values in known)
