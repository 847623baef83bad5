"""Scores of tests as a table of a paper: LaTeX with booktabs, ours beside what is published."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.published import SETS, Score, Table, tables
from config.schema import TestOptions, ValOptions
from metrics import METRICS, NIQE, PSNR, AnyScalePSNR, Metric
from models.evaluation.evaluate import EvalReport, way_of
from models.evaluation.sets import at_scale
from models.evaluation.summary import values_alike
from utils.errors import InputError
from utils.scale import scale_text

UNDEFINED = "--"
_HEADS = {"psnr": "PSNR", "ssim": "SSIM", "niqe": "NIQE", "lpips": "LPIPS", "dists": "DISTS"}
_SPECIAL = str.maketrans({
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "\n": " ",
})  # fmt: skip

Scores = Mapping[str, float | None]
"""Metric -> value; None and what is not finite are undefined."""


@dataclass(frozen=True)
class SetScores:
    """What a test found on one data set.

    Attributes:
        images: their names.
        scores: means of the network.
        bicubic: those of bicubic upsampling; empty where it was not measured.
    """

    images: frozenset[str]
    scores: Scores
    bicubic: Scores


@dataclass(frozen=True)
class ScoredTest:
    """A test.

    Attributes:
        name: of its row.
        options: of the test.
        way: how the network was applied to images (:func:`models.evaluation.evaluate.way_of`).
        sets: by their names in reports, as in "Set5" or, with ``val.scales``, "Set5 x3".
    """

    name: str
    options: TestOptions
    way: str
    sets: Mapping[str, SetScores]

    @property
    def scales(self) -> tuple[float, ...]:
        """Those that it was taken at."""
        return tuple((self.options.val or ValOptions()).scales or (self.options.scale,))

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Of its option file."""
        return (self.options.val or ValOptions()).metrics

    def at(self, scale: float) -> dict[str, SetScores]:
        """Set -> what was found at a scale."""
        if (self.options.val or ValOptions()).scales is None:
            return dict(self.sets) if scale == self.options.scale else {}
        ending = at_scale("", scale)
        return {name.removesuffix(ending): found for name, found in self.sets.items() if name.endswith(ending)}


@dataclass(frozen=True)
class _Row:
    """A line: the method, what the comment beside it says, and (set, metric) -> value."""

    method: str
    comment: str
    values: Mapping[tuple[str, str], float | None]


@dataclass(frozen=True)
class _Group:
    """The lines of one scale, with the metrics that they were taken by."""

    scale: float
    metrics: Mapping[str, Metric]
    rows: Sequence[_Row]


def scored_test(options: TestOptions, reports: Sequence[EvalReport]) -> ScoredTest:
    """The test that has just ended."""
    way = way_of(options.val or ValOptions(), options.tile, reports[0].arithmetic if reports else None)
    sets = {
        report.dataset: SetScores(frozenset(row.name for row in report.rows), report.scores, report.bicubic)
        for report in reports
    }
    return ScoredTest(options.name, options, way, sets)


def latex_table(tests: Sequence[ScoredTest]) -> str:
    """A ``tabular`` with a row for each method and, for each data set, a column for each metric.

    Scales stand one below the other, each with bicubic, every variant with scores published at that scale, and the
    tests. Published scores are shown where a test takes the metric as they were taken, and where they stand is the
    comment of their row. Of each scale and column the best value is bold and, of three or more, the second underlined,
    as printed: equal figures are marked alike. What is not defined is ``--``.

    Args:
        tests: at least one.

    Raises:
        InputError: two tests cannot stand in one table: a metric is taken otherwise, or a data set has other images.
    """
    groups = [_group(tests, scale) for scale in sorted({scale for test in tests for scale in test.scales})]
    names = dict.fromkeys(key[0] for group in groups for row in group.rows for key in row.values)
    if not any(found.scores for test in tests for found in test.sets.values()):
        raise InputError(f"{tests[0].name}: no data set has scores, so that there is no table")
    sets = [*(name for name in SETS if name in names), *(name for name in names if name not in SETS)]
    metrics = list(dict.fromkeys(name for group in groups for name in group.metrics))
    columns = [(name, metric) for name in sets for metric in metrics]
    n = len(metrics)
    heads = [f"\\multicolumn{{{n}}}{{c}}{{{escaped(name)}}}" for name in sets]
    rules = [f"\\cmidrule(lr){{{3 + n * i}-{2 + n * (i + 1)}}}" for i in range(len(sets))]
    named = [_HEADS.get(metric.lower(), escaped(metric)) for _, metric in columns]
    lines = [
        "% In the preamble: \\usepackage{booktabs}",
        *(f"% {text}" for group in groups for text in _protocol(group)),
        "% The best of a scale is bold; of three or more, the second is underlined.",
        f"\\begin{{tabular}}{{lc{'c' * len(columns)}}}",
        "\\toprule",
        f"& & {' & '.join(heads)} \\\\",
        " ".join(rules),
        f"Method & Scale & {' & '.join(named)} \\\\",
    ]
    for group in groups:
        lines += ["\\midrule", *_lines(group, columns)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def escaped(text: str) -> str:
    """Text with LaTeX's special characters as characters."""
    return text.translate(_SPECIAL)


def _group(tests: Sequence[ScoredTest], scale: float) -> _Group:
    """The rows of a scale: bicubic, what is published, the tests."""
    metrics: dict[str, Metric] = {}
    images: dict[str, frozenset[str]] = {}
    first: dict[str, str] = {}  # a metric or a set -> the test that had it first
    bicubic: dict[tuple[str, str], float | None] = {}
    rows = []
    for test in tests:
        found = test.at(scale)
        if not found:
            continue
        for name, metric in test.metrics.items():
            if metrics.setdefault(name, metric) != metric:
                raise InputError(
                    f"{first[name]} and {test.name}: {name} is taken otherwise ({_metric(metrics[name])}; "
                    f"{_metric(metric)}), so that they cannot stand in one table; test again with the same val.metrics"
                )
            first.setdefault(name, test.name)
        for name, scores in found.items():
            if images.setdefault(name, scores.images) != scores.images:
                raise InputError(
                    f"{first[name]} and {test.name}: {name} has other images, so that they cannot stand in one table"
                )
            first.setdefault(name, test.name)
            bicubic.update({(name, metric): value for metric, value in scores.bicubic.items()})
        rows.append(_Row(test.name, f"ours, {test.way}", _flat({name: one.scores for name, one in found.items()})))
    above = [_Row("Bicubic", "", bicubic)] if bicubic else []
    return _Group(scale, metrics, [*above, *_published(metrics, list(images), scale), *rows])


def _published(metrics: Mapping[str, Metric], sets: Sequence[str], scale: float) -> Iterator[_Row]:
    """Every variant that has a score in the table's columns."""
    for table in tables():
        for (variant, own), theirs in table.rows.items():
            if own != scale:
                continue
            values = _alike(metrics, table, theirs, scale)
            shown = {key: value for key, value in values.items() if key[0] in sets}
            if shown:
                yield _Row(variant, f"{table.source}: {table.note}", shown)


def _alike(
    metrics: Mapping[str, Metric], table: Table, theirs: Mapping[str, Score], scale: float
) -> dict[tuple[str, str], float | None]:
    by_metric = values_alike(metrics, (table, theirs), scale)
    return {(name, metric): value for metric, values in by_metric.items() for name, value in values.items()}


def _flat(by_set: Mapping[str, Scores]) -> dict[tuple[str, str], float | None]:
    return {(name, metric): value for name, scores in by_set.items() for metric, value in scores.items()}


def _lines(group: _Group, columns: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The rows of a scale as LaTeX."""
    cells: list[list[str]] = [[] for _ in group.rows]
    for column in columns:
        texts = [_figure(row.values.get(column), group.metrics.get(column[1])) for row in group.rows]
        for line, text in zip(cells, _marked(texts, group.metrics.get(column[1])), strict=True):
            line.append(text)
    for row, line in zip(group.rows, cells, strict=True):
        comment = f" % {' '.join(row.comment.split())}" if row.comment else ""
        scale = f"$\\times${scale_text(group.scale)[1:]}"
        yield f"{escaped(row.method)} & {scale} & {' & '.join(line)} \\\\{comment}"


def _figure(value: float | None, metric: Metric | None) -> str:
    """As it is printed: two places for dB and NIQE, four for what is between 0 and 1."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return f"{value:.{2 if isinstance(metric, PSNR | AnyScalePSNR | NIQE) else 4}f}"


def _marked(texts: Sequence[str], metric: Metric | None) -> list[str]:
    """The figures of a column with the best bold, of three or more the second underlined; one is not marked."""
    figures = [text for text in texts if text != UNDEFINED]
    if metric is None or len(figures) < 2:
        return list(texts)
    ranked = sorted(set(figures), key=float, reverse=metric.better == "higher")
    marks = dict(zip(ranked, ("textbf", "underline")[: len(figures) - 1], strict=False))
    return [f"\\{marks[text]}{{{text}}}" if text in marks else text for text in texts]


def _protocol(group: _Group) -> Iterator[str]:
    for name, metric in group.metrics.items():
        yield f"{scale_text(group.scale)}, {name}: {_metric(metric)}"


def _metric(metric: Metric) -> str:
    """The options of a metric as an option file has them."""
    kind = next(key for key, value in METRICS.items() if value is type(metric))
    values: dict[str, Any] = {field.name: getattr(metric, field.name) for field in dataclasses.fields(metric)}
    shown = {key: str(value).lower() if isinstance(value, bool) else value for key, value in values.items()}
    return ", ".join([kind, *(f"{key}: {value}" for key, value in shown.items() if key != "better")])
