"""The table at the end of a test run: every data set, what was measured, and what is published beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from config.published import Score, Table, scores_of
from config.schema import TestOptions, ValOptions
from metrics import PSNR, SSIM, Metric
from models.evaluation.evaluate import EvalReport, format_table, score_text, way_of


def summary(options: TestOptions, reports: Sequence[EvalReport], *, whole: bool = True) -> str:
    """One line per data set: images, scores, time per image, peak memory.

    Where the option file names a published variant, its scores follow ours, and the difference (ours less theirs); they
    are shown for metrics that are taken as they were. A test that was ended before its last data set is not ``whole``,
    which the table says.
    """
    metrics = (options.val or ValOptions()).metrics
    found = None if options.published is None else scores_of(options.published, options.scale)
    theirs: Mapping[str, Score] = {} if found is None else found[1]
    comparable = [name for name, metric in metrics.items() if _values(metric, theirs, options.scale)]
    both = any(report.bicubic for report in reports)
    heads = [options.name, "images"]
    for name in metrics:
        heads += [f"{name} bicubic"] if both else []
        heads += [f"{name} ours", f"{name} theirs", "difference"] if name in comparable else [name]
    rows = []
    for report in reports:
        row = [report.dataset, str(len(report.rows))]
        for name, metric in metrics.items():
            ours = report.scores.get(name)
            row += [score_text(report.bicubic.get(name))] if both else []
            row.append(score_text(ours))
            if name in comparable:
                value = _values(metric, theirs, options.scale).get(report.dataset)
                places = 2 if isinstance(metric, PSNR) else 4
                row.append("" if value is None else f"{value:.{places}f}")
                row.append("" if value is None or ours is None or isnan(ours) else f"{ours - value:+.{places}f}")
        rows.append([*row, f"{report.seconds:.3f} s", f"{report.memory / 2**20:,.0f} MB"])
    table = format_table([*heads, "per image", "peak memory"], rows, means=False)
    head = (
        "scores" if whole else f"scores of a test that was ended early ({len(reports)} of {len(options.datasets)} sets)"
    )
    return "\n".join([head, table, *_remarks(options, found[0] if found and comparable else None)])


def published_scores(options: TestOptions) -> dict[str, object] | None:
    """For ``scores.json``: the published variant, where its scores stand, and the scores by set."""
    found = None if options.published is None else scores_of(options.published, options.scale)
    if found is None:
        return None
    table, scores = found
    by_set = {name: {"psnr": score.psnr, "ssim": score.ssim} for name, score in scores.items()}
    return {"variant": options.published, "source": table.source, "note": table.note, "scores": by_set}


def _remarks(options: TestOptions, table: Table | None) -> list[str]:
    ours = f"ours: {way_of(options.val or ValOptions(), options.tile)}"
    if options.published is None:
        return [ours]
    if table is None:
        return [ours, f"nothing comparable is published of {options.published} x{options.scale:g}"]
    return [ours, f"theirs: {options.published} x{options.scale:g}, {table.source}, {table.note}"]


def _values(metric: Metric, theirs: Mapping[str, Score], scale: float) -> dict[str, float]:
    """Set -> the published value of a metric; empty where it is not taken on Y with the scale as border."""
    if not isinstance(metric, PSNR | SSIM) or not metric.test_y_channel or metric.crop_border != scale:
        return {}
    values = {name: score.psnr if isinstance(metric, PSNR) else score.ssim for name, score in theirs.items()}
    return {name: value for name, value in values.items() if value is not None}
