"""scripts/visualise.py: which pictures and tables it writes, and what it says when files do not belong together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data.images.files import read_image, write_image
from data.resizing.matlab import downscale
from models.evaluation.pictures import GAP, STRIP, bicubic_picture
from scripts.visualise import main
from tests.models.evaluation.test_summary import FILE
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


def networks(folder: Path, truth: NDArray[np.uint8], names: str = "AB") -> list[str]:
    """Outputs that differ at rows 8 to 20 and columns 24 to 40 alone, where those named later are better."""
    words = []
    for i, name in enumerate(names):
        output = (truth // 2 + 60).astype(np.uint8)
        part = truth[8:20, 24:40].astype(int)
        output[8:20, 24:40] = np.clip(part + (len(names) - i - 1) * 20, 0, 255)
        write_image(folder / name / "img_x4.png", output)
        words.append(f"{name}={folder / name}")
    return words


def paper(tmp_path: Path, output: str, *more: str, names: str = "AB") -> int:
    picture(tmp_path / "gt" / "img.png", 64, 96)
    words = networks(tmp_path / "outputs", read_image(tmp_path / "gt" / "img.png"), names)
    line = ["comparison", "--sr", *words, "--gt", str(tmp_path / "gt"), "-o", str(tmp_path / output), *more]
    return run_command(main, line)


def test_several_networks_are_columns(tmp_path: Path) -> None:
    assert paper(tmp_path, "out", "--part", "0") == 0
    drawn = read_image(tmp_path / "out" / "img.png")
    assert drawn.shape == (STRIP + 64, 5 * 96 + 4 * GAP, 3)
    for column, name in ((2, "A"), (3, "B")):
        shown = drawn[STRIP:, column * (96 + GAP) :][:, :96]
        np.testing.assert_array_equal(shown, read_image(tmp_path / "outputs" / name / "img_x4.png"))


def test_the_layout_of_papers_enlarges_where_networks_differ_most(tmp_path: Path) -> None:
    assert paper(tmp_path, "out.png", "--layout", "paper") == 0  # 1/6 of 96 columns, and 3/4 of that high
    drawn = read_image(tmp_path / "out.png")
    truth = read_image(tmp_path / "gt" / "img.png")
    cell = 14 * 16
    hr = truth[8:20, 24:40].repeat(14, 0).repeat(14, 1)
    np.testing.assert_array_equal(drawn[-hr.shape[0] - 40 : -40, -cell:], hr)  # below it two lines, HR and PSNR/SSIM
    left = drawn[:, : -2 * (cell + GAP + 2)]
    assert (left == (230, 30, 30)).all(axis=-1).any()
    assert not (drawn[:, -2 * cell :] == (230, 30, 30)).all(axis=-1).any()


def test_a_box_is_that_of_all_images_or_of_one(tmp_path: Path) -> None:
    assert (
        paper(tmp_path, "out.png", "--layout", "paper", "--box", "other=0,0,9,9", "4,6,22,10", "--scores", "none") == 0
    )
    drawn = read_image(tmp_path / "out.png")
    hr = read_image(tmp_path / "gt" / "img.png")[6:16, 4:26].repeat(10, 0).repeat(10, 1)
    np.testing.assert_array_equal(drawn[-hr.shape[0] - 20 : -20, -hr.shape[1] :], hr)


def test_several_images_are_rows(tmp_path: Path) -> None:
    for i, name in enumerate("pq"):
        picture(tmp_path / "gt" / f"{name}.png", 40 + 20 * i, 48, seed=i)
        picture(tmp_path / "sr" / f"{name}.png", 40 + 20 * i, 48, seed=i + 5)
    assert comparison(tmp_path / "sr", tmp_path / "gt", tmp_path / "two.png", "--layout", "paper") == 0
    assert comparison(tmp_path / "sr", tmp_path / "gt", tmp_path / "one", "--layout", "paper", "--images", "q") == 0
    two, one = read_image(tmp_path / "two.png"), read_image(tmp_path / "one" / "q.png")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["q.png"]
    assert two.shape[0] > 1.8 * one.shape[0]


def test_a_pdf_has_letters_and_the_pixels_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert paper(tmp_path, "out.pdf", "--layout", "paper") == 0
    content = (tmp_path / "out.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/CIDFontType2" in content
    assert b"/Type3" not in content
    sizes = re.findall(rb"/Width (\d+)", content), re.findall(rb"/Height (\d+)", content)
    assert sorted(zip(*sizes, strict=True)) == [(b"16", b"12")] * 4 + [(b"96", b"64")]


def test_without_matplotlib_a_pdf_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("utils.optional.importlib.util.find_spec", lambda name: None)
    assert paper(tmp_path, "out.pdf", "--layout", "paper") == 2
    assert "a PDF picture needs the package matplotlib: pip install" in capsys.readouterr().err
    assert not (tmp_path / "out.pdf").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--box", "90,0,10,10"], "--box 90,0,10,10 lies outside"),
        (["--box", "1,2,3"], "expected LEFT,TOP,WIDTH,HEIGHT"),
        (["--part", "0"], "--layout paper enlarges a part"),
        (["--images", "absent"], "there is no output for absent"),
        (["--layout", "row"], "PDF pictures are those of --layout paper"),
        (["--width", "100"], "--width is for pictures of pixels"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    pytest.importorskip("matplotlib")
    assert paper(tmp_path, "out.pdf", "--layout", "paper", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.pdf").exists()


def test_networks_need_names_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert paper(tmp_path, "out", names="AA") == 2
    assert "two outputs are called A" in capsys.readouterr().err


def results(folder: Path, name: str, psnr: float | None) -> Path:
    """The folder of a test."""
    where = folder / name
    where.mkdir(parents=True)
    file = FILE.replace("name: mine", f"name: {name}")
    (where / "options_as_read.yml").write_text(file)
    image = {"name": "baby", "scores": {"psnr": psnr}, "bicubic": {}}
    mean = {"scores": {"psnr": psnr, "ssim": 0.9}, "bicubic": {}}
    scores = {"way": "whole images", "datasets": {"Set5": {"mean": mean, "images": [image]}}}
    (where / "scores.json").write_text(json.dumps(scores))
    return where


def test_results_of_several_tests_are_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = results(tmp_path, "one_a", 40.0), results(tmp_path, "two", None)
    assert run_command(main, ["table", str(one), str(two)]) == 0
    printed = capsys.readouterr().out
    rows = [line.split(" & ") for line in printed.splitlines() if line.startswith(("one", "two", "HAT-S"))]
    assert [row[0] for row in rows] == ["HAT-S", r"one\_a", "two"]
    assert [row[2] for row in rows] == ["32.92", r"\textbf{40.00}", "--"]
    file = tmp_path / "table.tex"
    assert run_command(main, ["table", str(one), str(two), "-o", str(file)]) == 0
    assert file.read_text() == printed
    assert run_command(main, ["table", str(one), "-o", str(file)]) == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert run_command(main, ["table", str(tmp_path)]) == 2
    assert "one_a" in capsys.readouterr().err
