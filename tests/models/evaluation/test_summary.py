"""The table at the end of a test run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config import read
from config.schema import TestOptions
from models.evaluation.evaluate import EvalReport, EvalRow
from models.evaluation.summary import published_scores, summary
from models.evaluation.tester import write_scores
from models.weights.fit import LoadReport
from tests.config.files import write

FILE = """\
name: mine
model_type: HATModel
scale: 4
num_gpu: 0
published: HAT-S
datasets: {test_1: {name: Set5, type: SingleImageDataset, dataroot_lq: a}}
network_g: {type: PlainUSR_ultra, scale: 4}
path: {pretrain_network_g: m.pth}
val:
  metrics:
    psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: true}
    rgb: {type: calculate_psnr, crop_border: 4, test_y_channel: false}
    ssim: {type: calculate_ssim, crop_border: 4, test_y_channel: true}
"""


def options_of(folder: Path, text: str = FILE) -> TestOptions:
    return read(write(folder, text), mode="test")


def report(name: str, psnr: float, bicubic: bool = False) -> EvalReport:
    scores = {"psnr": psnr, "rgb": psnr - 2, "ssim": 0.9}
    base = {"psnr": 20.0, "rgb": 19.0, "ssim": 0.8} if bicubic else {}
    rows = tuple(EvalRow(str(i), 8, 8, scores, base, 0.25) for i in range(2))
    return EvalReport(name, rows, 3 * 2**20)


def cells(text: str, row: int) -> list[str]:
    return text.splitlines()[row].split()


def test_the_summary_shows_published_scores_beside_ours(tmp_path: Path) -> None:
    text = summary(options_of(tmp_path), [report("Set5", 32.9123), report("Mine", 30.0)])
    assert cells(text, 1) == [
        *("mine", "images", "psnr", "ours", "psnr", "theirs", "difference", "rgb", "ssim"),
        *("per", "image", "peak", "memory"),
    ]
    assert cells(text, 3) == ["Set5", "2", "32.9123", "32.92", "-0.01", "30.9123", "0.9000", "0.250", "s", "3", "MB"]
    assert cells(text, 4) == ["Mine", "2", "30.0000", "28.0000", "0.9000", "0.250", "s", "3", "MB"]
    assert text.splitlines()[-1].startswith("theirs: HAT-S x4, README of HAT's repository")


@pytest.mark.parametrize(
    ("edits", "way"),
    [
        ((), "whole images"),
        (("val:self_ensemble=true",), "whole images, self-ensemble"),
        (("val:pad_to_window=true",), "whole images, extended to multiples of the window"),
        (("model_type=PFTModel",), "images in equal tiles where a side has 256 pixels or more, read with a tenth"),
        (("model_type=PFTModel", "val:pft_chop=false"), "whole images"),
        (("val:use_chop=true",), "images in equal tiles where a side has 200 pixels or more, read with 16 pixels"),
        (("tile={tile_size: 64}",), "images in tiles of 64 pixels, read with 32 around (HAT's tile)"),
    ],
)
def test_the_summary_says_in_which_way_the_scores_were_taken(tmp_path: Path, edits: tuple[str, ...], way: str) -> None:
    options = read(write(tmp_path, FILE), edits, mode="test")
    lines = summary(options, [report("Set5", 32.9)]).splitlines()
    assert lines[-2].startswith(f"ours: {way}")
    write_scores(tmp_path / "scores.json", options, [report("Set5", 32.9)], LoadReport((), (), {}))
    assert f"ours: {json.loads((tmp_path / 'scores.json').read_text())['way']}" == lines[-2]


def test_bicubic_upsampling_has_columns_of_its_own(tmp_path: Path) -> None:
    text = summary(options_of(tmp_path), [report("Set5", 32.9, bicubic=True)])
    assert "psnr bicubic" in text
    assert cells(text, 3)[2:6] == ["20.0000", "32.9000", "32.92", "-0.02"]


def test_published_scores_are_shown_where_the_metric_is_measured_alike(tmp_path: Path) -> None:
    other = FILE.replace("crop_border: 4, test_y_channel: true", "crop_border: 2, test_y_channel: true")
    text = summary(options_of(tmp_path, other), [report("Set5", 32.9)])
    assert "theirs" not in text
    assert text.splitlines()[-1] == "nothing comparable is published of HAT-S x4"
    alone = summary(options_of(tmp_path, FILE.replace("published: HAT-S\n", "")), [report("Set5", 32.9)])
    assert "published" not in alone


def test_scores_json_names_the_source_of_published_scores(tmp_path: Path) -> None:
    found = published_scores(options_of(tmp_path))
    assert found is not None
    assert found["variant"] == "HAT-S"
    assert found["scores"]["Set5"] == {"psnr": 32.92, "ssim": None}  # type: ignore[index]
    assert published_scores(options_of(tmp_path, FILE.replace("scale: 4", "scale: 2"))) is None
