"""Curves of training runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from analysis.report.curves import Points, RunCurves
from analysis.report.model import Group
from scripts.plot import FORMATS, curves_of, draw, labels, main, smoothed
from utils.errors import InputError


def run_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    records = [{"kind": "train", "step": i, "lr": [1e-3], "l_pix": 1 / i, "grad_norm": 2.0} for i in range(1, 9)]
    records.append({"kind": "val", "step": 8, "dataset": "Set5", "scores": {"psnr": 30.5, "ssim": 0.9}})
    lines = [json.dumps(record) for record in records]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"kind": "tra']))
    return folder


def points(*pairs: tuple[int, float], group: Group = "loss") -> Points:
    steps, values = zip(*pairs, strict=True)
    return Points(group, np.array(steps), np.array(values))


def pairs(points: Points) -> list[tuple[int, float]]:
    return list(zip(points.steps.tolist(), points.values.tolist(), strict=True))


def test_curves_of_a_run_are_read_from_its_metrics(tmp_path: Path) -> None:
    run = curves_of(run_folder(tmp_path / "one"), 1)
    assert run.name == "one"
    assert pairs(run.curves["l_pix"])[:2] == [(1, 1.0), (2, 0.5)]
    assert pairs(run.curves["Set5: psnr"]) == [(8, 30.5)]
    assert set(run.curves) == {"l_pix", "lr", "grad_norm", "Set5: psnr", "Set5: ssim"}
    assert pairs(smoothed(points((1, 1.0), (2, 3.0), (3, 5.0)), 2)) == [(1, 1.0), (2, 2.0), (3, 4.0)]


def test_curves_of_several_runs_are_drawn_into_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [str(run_folder(tmp_path / name)) for name in ("one", "two")]
    main([*runs, "-o", str(tmp_path / "curves.png"), "--smooth", "3"])
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture is not None
    assert picture.shape[1] > picture.shape[0] > 300
    assert picture.std() > 5


HEADS = {
    ".png": b"\x89PNG", ".PNG": b"\x89PNG", ".pdf": b"%PDF-", ".svg": b"<?xml", ".jpg": b"\xff\xd8", ".webp": b"RIFF",
    ".tif": b"II*\0", ".eps": b"%!PS-Adobe",
}  # fmt: skip
"""Suffix -> how such a file begins."""


@pytest.mark.parametrize("suffix", HEADS)
def test_the_suffix_names_the_format(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "made for it" / f"curves{suffix}"
    main([str(run_folder(tmp_path / "one")), "-o", str(output)])
    assert output.read_bytes().startswith(HEADS[suffix])
    assert suffix.lower() in FORMATS


@pytest.mark.parametrize("name", ["curves", "curves.doc", "curves.", "."])
def test_a_format_that_cannot_be_written_is_refused_before_anything_is_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"name a file that ends in one of \.png, \.pdf, \.svg"):
        main([str(tmp_path / "no run"), "-o", str(tmp_path / name)])


def test_a_run_keeps_its_colour_in_all_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    drawn: list[Any] = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self))
    first, second = (
        RunCurves("a", {"lr": points((1, 1.0))}),
        RunCurves("b", {"lr": points((1, 1.0)), "Set5: psnr": points((1, 30.0))}),
    )
    draw([first, second], tmp_path / "out.png")
    lr, psnr = drawn[0].axes
    assert [line.get_color() for line in lr.lines] == ["C0", "C1"]
    assert [line.get_color() for line in psnr.lines] == ["C1"]  # the first of its panel, the second of the runs
    many = [RunCurves(f"run {i}", {"lr": points((1, 1.0))}) for i in range(25)]
    draw(many, tmp_path / "out.png")
    looks = {(line.get_color(), line.get_linestyle()) for line in drawn[1].axes[0].lines}
    assert len(looks) == 25


def test_runs_of_the_same_name_can_be_told_apart(tmp_path: Path) -> None:
    runs = [curves_of(run_folder(tmp_path / parent / "x4"), 1) for parent in ("old", "new")]
    assert labels([*runs, RunCurves("other", {})]) == ["x4 (1)", "x4 (2)", "other"]


def test_another_file_of_json_lines_is_refused(tmp_path: Path) -> None:
    for line in ('{"text": "other"}', "[1]", "3"):
        (tmp_path / "other.jsonl").write_text(line)
        with pytest.raises(InputError, match=r"other\.jsonl, line 1: no record of a training run"):
            main([str(tmp_path / "other.jsonl")])


def test_runs_without_records_and_bad_smoothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.jsonl: there is no such file; name the folder of a training run"):
        main([str(tmp_path)])
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no records"):
        main([str(tmp_path)])
    with pytest.raises(InputError, match="--smooth 0"):
        main([str(tmp_path), "--smooth", "0"])


def test_damaged_lines_are_left_out_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kind": "train", "step": 1, "lr": [0.1], "l_pix": 0.5}\n\xff\n{"kind": "val", "step": 1}\n')
    assert pairs(curves_of(path, 1).curves["l_pix"]) == [(1, 0.5)]
    assert "2 damaged lines are left out: line 2, 3" in capsys.readouterr().err
