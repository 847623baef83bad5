"""Curves of training runs."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from scripts.plot import main, read_curves, smoothed
from utils.errors import InputError


def run_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    records = [{"kind": "train", "step": i, "lr": [1e-3], "l_pix": 1 / i, "grad_norm": 2.0} for i in range(1, 9)]
    records.append({"kind": "val", "step": 8, "dataset": "Set5", "scores": {"psnr": 30.5, "ssim": 0.9}})
    lines = [json.dumps(record) for record in records]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"kind": "tra']))
    return folder


def test_curves_of_a_run_are_read_from_its_metrics(tmp_path: Path) -> None:
    run = read_curves(run_folder(tmp_path / "one"))
    assert run.name == "one"
    assert run.curves["l_pix"][:2] == [(1, 1.0), (2, 0.5)]
    assert run.curves["Set5: psnr"] == [(8, 30.5)]
    assert set(run.curves) == {"l_pix", "lr", "grad_norm", "Set5: psnr", "Set5: ssim"}
    assert smoothed([(1, 1.0), (2, 3.0), (3, 5.0)], 2) == [(1, 1.0), (2, 2.0), (3, 4.0)]


def test_curves_of_several_runs_are_drawn_into_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [str(run_folder(tmp_path / name)) for name in ("one", "two")]
    main([*runs, "-o", str(tmp_path / "curves.png"), "--smooth", "3"])
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture is not None
    assert picture.shape[1] > picture.shape[0] > 300
    assert picture.std() > 5


def test_runs_without_records_and_bad_smoothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.jsonl: there is no such file; name the folder of a training run"):
        main([str(tmp_path)])
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no records"):
        main([str(tmp_path)])
    with pytest.raises(InputError, match="--smooth 0"):
        main([str(tmp_path), "--smooth", "0"])
