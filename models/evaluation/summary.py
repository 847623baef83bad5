"""The table at the end of a test run: every data set, what was measured, and what is published beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from config.published import Score, Table, scores_of
from config.schema import TestOptions, ValOptions
from metrics import PSNR, SSIM, AnyScalePSNR, Metric
from models.evaluation.evaluate import EvalReport, format_table, score_text, way_of
from models.evaluation.sets import at_scale
from utils.scale import scale_text


def summary(options: TestOptions, reports: Sequence[EvalReport], *, whole: bool = True) -> str:
    """One line per data set: images, scores, time per image, peak memory; with ``val.scales`` a table for each scale.

    Where the option file names a published variant, its scores follow ours, and the difference (ours less theirs); they
    are shown for metrics that are taken as they were. A test that was ended before its last data set is not ``whole``,
    which the table says.
    """
    scales = (options.val or ValOptions()).scales
    expected = len(options.datasets) * len(scales or (1,))
    head = "scores" if whole else f"scores of a test that was ended early ({len(reports)} of {expected} sets)"
    lines = [head]
    for scale in scales or (options.scale,):
        own = [report for report in reports if scales is None or report.scale == scale]
        if not own:
            continue
        if scales is not None:
            lines.append(scale_text(scale))
        lines.append(_table(options, own, scale))
    arithmetic = reports[0].arithmetic if reports else None
    lines.append(f"ours: {way_of(options.val or ValOptions(), options.tile, arithmetic)}")
    return "\n".join([*lines, *_theirs(options, scales or (options.scale,))])


def published_scores(options: TestOptions) -> dict[str, object] | None:
    """For ``scores.json``: the published variant, where its scores stand, and the scores by set (as in "Set5 x3")."""
    scales = (options.val or ValOptions()).scales
    by_set: dict[str, object] = {}
    source: Table | None = None
    for scale in scales or (options.scale,):
        found = _found(options, scale)
        if found is None:
            continue
        source = found[0]
        for name, score in found[1].items():
            key = name if scales is None else at_scale(name, scale)
            by_set[key] = {"psnr": score.psnr, "ssim": score.ssim}
    if source is None:
        return None
    return {"variant": options.published, "source": source.source, "note": source.note, "scores": by_set}


def comparable(options: TestOptions, scale: float) -> tuple[Table, dict[str, dict[str, float]]] | None:
    """The table of the published variant at a scale, and of it metric -> set -> value.

    Only metrics of the option file count, and only those that are taken as in the table; None where nothing is
    published of the variant, or none is named.
    """
    found = _found(options, scale)
    if found is None:
        return None
    return found[0], values_alike((options.val or ValOptions()).metrics, found, scale)


def values_alike(
    metrics: Mapping[str, Metric], found: tuple[Table, Mapping[str, Score]] | None, scale: float
) -> dict[str, dict[str, float]]:
    """Metric -> set -> the published value, of metrics that are taken as those of the table were.

    Args:
        metrics: by their names in the option file.
        found: a published table, and of it set -> score; None: nothing is published.
        scale: of the images.
    """
    if found is None:
        return {}
    values = {name: _values(metric, *found, scale) for name, metric in metrics.items()}
    return {name: own for name, own in values.items() if own}


def _found(options: TestOptions, scale: float) -> tuple[Table, Mapping[str, Score]] | None:
    return None if options.published is None else scores_of(options.published, scale)


def _table(options: TestOptions, reports: Sequence[EvalReport], scale: float) -> str:
    """The lines of one scale."""
    metrics = (options.val or ValOptions()).metrics
    found = _found(options, scale)
    several = (options.val or ValOptions()).scales is not None
    comparable = values_alike(metrics, found, scale)
    both = any(report.bicubic for report in reports)
    heads = [options.name, "images"]
    for name in metrics:
        heads += [f"{name} bicubic"] if both else []
        heads += [f"{name} ours", f"{name} theirs", "difference"] if name in comparable else [name]
    rows = []
    for report in reports:
        called = report.dataset.removesuffix(at_scale("", scale)) if several else report.dataset
        row = [called, str(len(report.rows))]
        for name, metric in metrics.items():
            ours = report.scores.get(name)
            row += [score_text(report.bicubic.get(name))] if both else []
            row.append(score_text(ours))
            if name in comparable:
                value = comparable[name].get(called)
                places = 4 if isinstance(metric, SSIM) else 2
                row.append("" if value is None else f"{value:.{places}f}")
                row.append("" if value is None or ours is None or isnan(ours) else f"{ours - value:+.{places}f}")
        rows.append([*row, f"{report.seconds:.3f} s", f"{report.memory / 2**20:,.0f} MB"])
    return format_table([*heads, "per image", "peak memory"], rows, means=False)


def _theirs(options: TestOptions, scales: Sequence[float]) -> list[str]:
    """Where the published scores stand, and at which scales nothing comparable is published."""
    if options.published is None:
        return []
    metrics = (options.val or ValOptions()).metrics
    sources: dict[str, list[float]] = {}
    absent = []
    for scale in scales:
        found = _found(options, scale)
        if found is not None and values_alike(metrics, found, scale):
            sources.setdefault(f"{found[0].source}, {found[0].note}", []).append(scale)
        else:
            absent.append(scale)
    lines = [f"theirs: {options.published} {_listed(own)}, {source}" for source, own in sources.items()]
    return [*lines, *([f"nothing comparable is published of {options.published} {_listed(absent)}"] if absent else [])]


def _listed(scales: Sequence[float]) -> str:
    return ", ".join(map(scale_text, scales))


def _values(metric: Metric, table: Table, theirs: Mapping[str, Score], scale: float) -> dict[str, float]:
    """Set -> the published value; empty where it is not taken alike.

    Most are: on Y, with the scale as border. Those of networks for any scale are taken of unrounded values.
    """
    if isinstance(metric, AnyScalePSNR):
        alike = table.unrounded and metric.protocol == "benchmark"
    else:
        alike = isinstance(metric, PSNR | SSIM) and metric.test_y_channel and metric.crop_border == scale
        alike = alike and not table.unrounded
    values = {name: score.ssim if isinstance(metric, SSIM) else score.psnr for name, score in theirs.items()}
    return {name: value for name, value in values.items() if alike and value is not None}
