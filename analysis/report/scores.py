"""Scores image by image: those of all networks that were tested or validated on a data set in one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.report.model import ImageScores, Metric, Published, ScoredSet
from analysis.report.runs import Notes, RunFiles, images_of, mapping_of
from config.schema import Options, TestOptions, TrainOptions, ValOptions
from data import DatasetOptions
from models.evaluation.sets import at_scale
from models.evaluation.summary import comparable
from utils.scale import as_scale

BICUBIC = "bicubic"
_PLACES = {"calculate_psnr": 2, "calculate_psnr_any_scale": 2}
_OTHER_PLACES = 4

Key = tuple[str, float]
"""A data set and a scale."""
Scores = Mapping[str, float]


@dataclass
class _Table:
    """A :class:`ScoredSet` that is being put together."""

    metrics: dict[str, Mapping[str, str]] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)
    images: dict[str, ImageScores] = field(default_factory=dict)
    mean: dict[str, Scores] = field(default_factory=dict)
    published: Published | None = None

    def add(self, method: str, mean: Scores, rows: Sequence[ImageScores]) -> None:
        """Put the scores of one method beside the others."""
        self.methods.append(method)
        self.mean[method] = mean
        for row in rows:
            before = self.images.get(row.name, row)
            self.images[row.name] = ImageScores(
                row.name, before.size if any(before.size) else row.size, {**before.scores, **row.scores},
                fault={**before.fault, **row.fault},
            )  # fmt: skip


def scored_sets(runs: Sequence[RunFiles], notes: Notes) -> dict[Key, ScoredSet]:
    """The tables of all data sets.

    Args:
        runs: tests, and training runs with their last validation; their names are different.
        notes: gets which figures cannot be compared.
    """
    tables: dict[Key, _Table] = {}
    for files in runs:
        found = mapping_of(files.scores.get("datasets"))
        for called, key in keys_of(files):
            if called in found:
                _add(tables.setdefault(key, _Table()), files, mapping_of(found[called]), key, notes)
    return {key: _finished(key, table) for key, table in tables.items()}


def method_of(files: RunFiles) -> str:
    """What the network of a run is called in tables and pictures."""
    if files.run.kind == "test":
        return files.run.name
    return at_iteration(files.run.name, files.scores.get("step", files.run.iteration))


def at_iteration(name: str, step: object) -> str:
    """What the network of a training run is called at an iteration."""
    return f"{name} at {step:,}" if isinstance(step, int) else name


def keys_of(files: RunFiles) -> tuple[tuple[str, Key], ...]:
    """The data sets of a run as its files call them, with their own names and scales."""
    known: dict[str, Key] = {}
    options = files.options
    if options is not None:
        scales = (options.val or ValOptions()).scales
        for dataset in evaluated_sets(options):
            for scale in scales or (options.largest_scale if isinstance(options, TrainOptions) else options.scale,):
                assert not isinstance(scale, tuple)  # only a training has a range
                called = dataset.name if scales is None else at_scale(dataset.name, scale)
                known[called] = (dataset.name, as_scale(scale))
    try:
        scale = as_scale(float(files.run.options.get("scale", "1")))
    except ValueError:
        scale = 1
    for called in mapping_of(files.scores.get("datasets")):
        known.setdefault(called, (called, scale))
    return tuple(known.items())


def evaluated_sets(options: Options) -> tuple[DatasetOptions, ...]:
    """The data sets that a file evaluates on."""
    sets = options.val_datasets if isinstance(options, TrainOptions) else options.datasets
    return tuple(sets.values())


def _add(table: _Table, files: RunFiles, dataset: Mapping[str, Any], key: Key, notes: Notes) -> None:
    """Put what one run found on one data set into its table."""
    metrics = _metrics(files.run.options)
    means = mapping_of(dataset.get("mean"))
    if table.methods:
        for note in _otherwise(table, metrics, key[0]):
            notes.add(files.run.name, note)
    for metric in mapping_of(means.get("scores")):
        table.metrics.setdefault(metric, metrics.get(metric, {}))
    images = images_of(dataset)
    if mapping_of(means.get("bicubic")) and BICUBIC not in table.methods:
        table.add(BICUBIC, _figures(means["bicubic"]), [_row(image, "bicubic", BICUBIC) for image in images])
    method = method_of(files)
    table.add(method, _figures(means.get("scores")), [_row(image, "scores", method) for image in images])
    if isinstance(files.options, TestOptions) and table.published is None:
        table.published = _published(files.options, key)


def _metrics(options: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Name of a metric -> its options."""
    found: dict[str, dict[str, str]] = {}
    for key, value in options.items():
        section, _, rest = key.partition("val.metrics.")
        name, _, option = rest.rpartition(".")
        if not section and name:
            found.setdefault(name, {})[option] = value
    return found


def _otherwise(table: _Table, metrics: Mapping[str, Mapping[str, str]], dataset: str) -> Iterator[str]:
    """A note for each metric that earlier runs took otherwise, so that the figures cannot be compared."""
    for metric, before in table.metrics.items():
        own = metrics.get(metric, {})
        keys = [key for key in dict.fromkeys([*before, *own]) if before.get(key) != own.get(key)]
        if before and own and keys:
            said = ", ".join(f"{key} {own.get(key)} and not {before.get(key)}" for key in keys)
            yield f"{metric} of {dataset} was taken otherwise than in the first run ({said}): not comparable"


def _row(image: Mapping[str, Any], part: str, method: str) -> ImageScores:
    size = image.get("size")
    sides = (
        size if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size) else (0, 0)
    )
    fault = {method: str(image["fault"])} if image.get("fault") and part == "scores" else {}
    return ImageScores(
        str(image.get("name")), (sides[0], sides[1]), {method: _figures(image.get(part))}, fault=fault
    )  # fmt: skip


def _published(options: TestOptions, key: Key) -> Published | None:
    """The published scores of a data set, of metrics that were taken as theirs."""
    found = comparable(options, key[1])
    if found is None:
        return None
    scores = {metric: values[key[0]] for metric, values in found[1].items() if key[0] in values}
    return Published(str(options.published), found[0].source, scores) if scores else None


def _finished(key: Key, table: _Table) -> ScoredSet:
    metrics = []
    for name, options in table.metrics.items():
        lower = options.get("better") == "lower"
        places = _PLACES.get(options.get("type", ""), _OTHER_PLACES)
        metrics.append(Metric(name, "lower" if lower else "higher", places))
    methods = sorted(table.methods, key=lambda method: method != BICUBIC)
    return ScoredSet(
        key[0], key[1], tuple(metrics), tuple(methods), tuple(table.images.values()), table.mean, table.published
    )  # fmt: skip


def _figures(scores: Any) -> dict[str, float]:
    return {str(metric): _number(value) for metric, value in mapping_of(scores).items()}


def _number(value: Any) -> float:
    """A figure of a JSON file; NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # JSON's whole numbers have no end
        return math.nan
