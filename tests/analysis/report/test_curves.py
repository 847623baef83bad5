"""Curves of runs: read from damaged files, of resumed runs, thinned."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from analysis.report.curves import Points, charts, read_curves, series_of


def record(step: int, loss: float | None = 0.5, **more: object) -> str:
    return json.dumps({"kind": "train", "step": step, "lr": [1e-3], "l_pix": loss, "grad_norm": 2.0, **more})


def written(folder: Path, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    return folder


def test_figures_become_curves_in_their_groups(tmp_path: Path) -> None:
    machine = {"images_per_second": 12.5, "data_share": 0.25, "memory": 2**31}
    val = {"kind": "val", "step": 2, "dataset": "Set5", "scores": {"psnr": 30.5, "ssim": None}}
    folder = written(tmp_path / "a run", record(1, lr_d=[2e-4]), record(2, None, **machine), json.dumps(val), "{}")
    run = read_curves(folder)
    assert (run.name, run.dropped, run.last) == ("a run", (4,), 2)
    found = {title: (points.group, points.values.tolist()) for title, points in run.curves.items()}
    assert math.isnan(found.pop("l_pix")[1][1])
    assert math.isnan(found.pop("Set5: ssim")[1][0])
    assert found == {
        "lr": ("rate", [1e-3, 1e-3]), "lr_d": ("rate", [2e-4]), "Set5: psnr": ("score", [30.5]),
        "images/s": ("speed", [12.5]), "data wait, share of the time": ("speed", [0.25]),
        "grad_norm": ("other", [2.0, 2.0]), "memory, GiB": ("other", [2.0]),
    }  # fmt: skip


def test_of_iterations_that_were_made_again_the_later_records_count(tmp_path: Path) -> None:
    lines = [record(step, step) for step in (1, 2, 3, 4)] + [record(step, 10 * step) for step in (3, 4, 5)]
    loss = read_curves(written(tmp_path, *lines)).curves["l_pix"]
    assert loss.steps.tolist() == [1, 2, 3, 4, 5]
    assert loss.values.tolist() == [1, 2, 30, 40, 50]


def test_numbers_that_no_array_holds_are_damage_and_infinity_is_no_value(tmp_path: Path) -> None:
    huge = str(10**30)
    lines = [record(1), record(2).replace("0.5", huge), record(7).replace("7", huge), record(4).replace("0.5", "1e999")]
    run = read_curves(written(tmp_path, *lines))
    assert run.dropped == (2, 3)
    assert np.isnan(run.curves["l_pix"].values).tolist() == [False, True]


def test_a_short_curve_is_drawn_point_by_point() -> None:
    points = Points("loss", np.arange(1, 5), np.array([1.0, math.nan, 2.0, 1 / 3]))
    series = series_of(3, points)
    assert (series.run, series.steps, series.low, series.high) == (3, (1, 2, 3, 4), None, None)
    assert (series.values[0], series.values[3]) == (1.0, 0.333333)
    assert math.isnan(series.values[1])


def test_a_long_curve_keeps_its_extremes_and_its_gaps() -> None:
    steps = np.arange(1, 300_001)
    values = np.sin(steps / 1000) + 2
    values[123_456] = 99.0  # a spike of one iteration
    values[200_000:201_000] = math.nan  # several points' worth
    values[5] = math.nan  # within a point
    series = series_of(0, Points("loss", steps, values), most=1000)
    assert len(series.steps) == 1000
    assert list(series.steps) == sorted(set(series.steps))
    assert series.low is not None
    assert series.high is not None
    assert max(value for value in series.high if not math.isnan(value)) == 99.0
    assert abs(series.values[0] - np.nanmean(values[:300])) < 1e-5
    gaps = [step for step, value in zip(series.steps, series.values, strict=True) if math.isnan(value)]
    assert 3 <= len(gaps) <= 4
    assert all(200_000 < step <= 201_000 for step in gaps)


def test_a_rate_that_seldom_changes_needs_no_band() -> None:
    rate = np.where(np.arange(10_000) < 5_000, 2e-4, 1e-4)
    series = series_of(0, Points("rate", np.arange(10_000), rate), most=100)
    assert (series.low, series.high) == (None, None)
    assert set(series.values) == {2e-4, 1e-4}


def test_runs_share_a_chart_and_a_loss_below_zero_has_no_logarithm(tmp_path: Path) -> None:
    first = read_curves(written(tmp_path / "a", record(1), record(2, 0.1)))
    second = read_curves(written(tmp_path / "b", record(1, -1.0, l_total=1.0)))
    made = {chart.title: chart for chart in charts({0: first, 2: second})}
    assert [series.run for series in made["l_pix"].series] == [0, 2]
    assert not made["l_pix"].log
    assert made["l_total"].log
    assert [chart.group for chart in made.values()] == ["loss", "loss", "rate", "other"]
