"""scripts/visualise.py comparison: which pictures it writes, and what it says when files do not belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.images.files import read_image, write_image
from data.resizing.matlab import downscale
from models.evaluation.pictures import GAP, STRIP, bicubic_picture
from scripts.visualise import main
from tests.runs import command, run_line
from utils.command import run_command


def picture(path: Path, height: int, width: int, seed: int = 0) -> Path:
    write_image(path, np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    return path


def comparison(sr: Path, gt: Path, output: Path, *more: str) -> int:
    return run_command(main, ["comparison", "--sr", str(sr), "--gt", str(gt), "-o", str(output), *more])


def test_comparison_shows_lr_bicubic_ours_and_hr_side_by_side(tmp_path: Path) -> None:
    gt = picture(tmp_path / "gt.png", 43, 50)  # its surplus rows and columns are cut off
    sr = picture(tmp_path / "sr.png", 40, 48, seed=1)
    assert comparison(sr, gt, tmp_path / "new" / "out.png", "--part", "0") == 0

    drawn = read_image(tmp_path / "new" / "out.png")
    assert drawn.shape == (STRIP + 40, 4 * 48 + 3 * GAP, 3)
    truth = read_image(gt)[:40, :48]
    np.testing.assert_array_equal(drawn[STRIP:, -48:], truth)
    np.testing.assert_array_equal(drawn[STRIP:, 2 * (48 + GAP) : 2 * (48 + GAP) + 48], read_image(sr))
    np.testing.assert_array_equal(drawn[STRIP:, 48 + GAP : 48 + GAP + 48], bicubic_picture(downscale(truth, 4), 4))


def test_comparison_shows_the_lq_picture_that_is_given(tmp_path: Path) -> None:
    gt, sr = picture(tmp_path / "gt.png", 40, 48), picture(tmp_path / "sr.png", 40, 48)
    lq = picture(tmp_path / "lq.png", 20, 24, seed=2)
    assert comparison(sr, gt, tmp_path / "out.png", "--lq", str(lq), "--scale", "2", "--part", "3") == 0
    drawn = read_image(tmp_path / "out.png")
    assert drawn.shape[0] > 2 * 40  # a second row shows a part
    assert comparison(sr, gt, tmp_path / "out.png", "--lq", str(lq), "--scale", "2", "--part", "0") == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out.png")[STRIP::2, :48:2], read_image(lq))


def test_the_part_with_the_largest_gain_over_bicubic_is_enlarged(tmp_path: Path) -> None:
    gt = picture(tmp_path / "gt.png", 48, 60)
    truth = read_image(gt)
    network = bicubic_picture(downscale(truth, 4), 4).copy()
    network[24:32, 20:30] = truth[24:32, 20:30]
    write_image(tmp_path / "sr.png", network)
    assert comparison(tmp_path / "sr.png", gt, tmp_path / "out.png") == 0
    drawn = read_image(tmp_path / "out.png")
    assert drawn.shape == (STRIP + 48 + GAP + STRIP + 48, 4 * 60 + 3 * GAP, 3)
    ours, hr = (drawn[-48:, i * (60 + GAP) :][:, :60] for i in (2, 3))
    np.testing.assert_array_equal(hr, truth[24:32, 20:30].repeat(6, 0).repeat(6, 1))
    np.testing.assert_array_equal(ours, hr)


def test_a_picture_is_shrunk_to_the_width_that_is_asked_for(tmp_path: Path) -> None:
    gt = picture(tmp_path / "gt.png", 48, 60)
    assert comparison(gt, gt, tmp_path / "out.png", "--width", "129", "--part", "0") == 0
    assert read_image(tmp_path / "out.png").shape == (37, 129, 3)
    assert comparison(gt, gt, tmp_path / "out.png", "--width", "5000", "--part", "0") == 0
    assert read_image(tmp_path / "out.png").shape == (STRIP + 48, 258, 3)
    assert comparison(gt, gt, tmp_path / "no.png", "--width", "0") == 2


def test_pictures_of_folders_are_paired_by_the_longest_common_name(tmp_path: Path) -> None:
    for i, name in enumerate(("a", "a_b", "unused")):
        picture(tmp_path / "gt" / f"{name}.png", 40, 40 + 4 * i)
    picture(tmp_path / "sr" / "a_demo.png", 40, 40)
    picture(tmp_path / "sr" / "a_b_demo.png", 40, 44)
    assert comparison(tmp_path / "sr", tmp_path / "gt", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "a_b.png"]


@pytest.mark.parametrize("size", [4, 8])
def test_pictures_smaller_than_the_border_can_be_compared(tmp_path: Path, size: int) -> None:
    gt, sr = picture(tmp_path / "gt.png", size, size), picture(tmp_path / "sr.png", size, size)
    assert comparison(sr, gt, tmp_path / "out.png", "--part", "8") == 0


def test_pictures_that_do_not_belong_together_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt, sr = picture(tmp_path / "gt.png", 40, 48), picture(tmp_path / "sr.png", 40, 44)
    lq = picture(tmp_path / "lq.png", 9, 12)
    same = picture(tmp_path / "same.png", 40, 48)
    picture(tmp_path / "folder" / "other.png", 40, 48)
    wrong = [
        (sr, gt, "out.png", [], "44 x 40 pixels"),
        (same, gt, "out.png", ["--lq", str(lq)], "is not 1/4 of the size"),
        (same, gt, "out", [], "name a file that ends in one of"),
        (same, gt, "out.png", ["--scale", "0"], "--scale must be 1 or more"),
        (tmp_path / "absent.png", gt, "out.png", [], "there is no such file"),
        (tmp_path / "folder", tmp_path, "out", [], "begins with"),
        (tmp_path / "folder", tmp_path / "folder", "out", ["--lq", str(tmp_path)], "there is no other"),
    ]
    for network, truth, output, more, message in wrong:
        assert comparison(network, truth, tmp_path / output, *more) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_visualise_runs_from_any_folder(tmp_path: Path) -> None:
    picture(tmp_path / "gt.png", 16, 16)
    line = command("scripts/visualise.py", "comparison", "--sr", "gt.png", "--gt", "gt.png", "-o", "out.png")
    done = run_line(tmp_path, line)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "wrote out.png"
    assert (tmp_path / "out.png").exists()
