"""models/evaluation/pictures.py: the panels hold the images unchanged, at their places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data.images.files import read_image, to_tensor, to_uint8
from data.resizing.matlab import Region, imresize
from models.evaluation.pictures import (
    GAP,
    STRIP,
    PictureWriter,
    bicubic_picture,
    bicubic_to,
    comparison_picture,
    enlarged,
    most_improved_part,
)
from utils.errors import InputError

Pixels = NDArray[np.uint8]


def random_image(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def panels(picture: Pixels, height: int, width: int) -> list[Pixels]:
    step = width + GAP
    return [picture[STRIP : STRIP + height, left : left + width] for left in range(0, picture.shape[1], step)]


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_panels_are_low_resolution_bicubic_output_and_truth(scale: int) -> None:
    lq = random_image(20, 30)
    sr, gt = random_image(20 * scale, 30 * scale, 1), random_image(20 * scale, 30 * scale, 2)

    picture = comparison_picture(lq, sr, gt)

    assert picture.dtype == np.uint8
    assert picture.shape == (STRIP + 20 * scale, 4 * 30 * scale + 3 * GAP, 3)
    shown = panels(picture, 20 * scale, 30 * scale)
    np.testing.assert_array_equal(shown[0][::scale, ::scale], lq)
    np.testing.assert_array_equal(shown[1], to_uint8(imresize(to_tensor(lq), float(scale))))
    np.testing.assert_array_equal(shown[2], sr)
    np.testing.assert_array_equal(shown[3], gt)


def test_without_truth_there_are_three_panels() -> None:
    picture = comparison_picture(random_image(8, 9), random_image(16, 18))
    assert picture.shape[1] == 3 * 18 + 2 * GAP


def test_captions_are_written_above_the_panels() -> None:
    lq, sr = random_image(32, 32), random_image(64, 64)
    plain = comparison_picture(lq, sr, captions=["", "", ""])
    named = comparison_picture(lq, sr, captions=["", "", "ours"])

    assert (plain[:STRIP] == 255).all()
    changed = (plain != named).any(axis=(0, 2))
    assert changed.any()
    assert not changed[: 2 * (64 + GAP)].any()
    np.testing.assert_array_equal(plain[STRIP:], named[STRIP:])


@pytest.mark.parametrize("width", [1, 3, 12, 200])
def test_long_captions_stay_within_their_panel(width: int) -> None:
    lq = random_image(4, width)
    picture = comparison_picture(lq, lq, captions=["a caption that is far too long for a small picture", "", ""])
    assert (picture[:STRIP, width:] == 255).all()


def test_a_part_is_framed_and_enlarged_below() -> None:
    lq, sr, gt = random_image(20, 30), random_image(40, 60, 1), random_image(40, 60, 2)
    part = Region(top=5, left=10, height=20, width=30)

    whole = comparison_picture(lq, sr, gt)
    picture = comparison_picture(lq, sr, gt, crop=part)

    second = picture[whole.shape[0] + GAP :]
    assert second.shape[0] == 40
    ours = second[:, 2 * (60 + GAP) : 2 * (60 + GAP) + 60]
    np.testing.assert_array_equal(ours, enlarged(sr[5:25, 10:40], 40, 60))
    framed = panels(picture, 40, 60)[3]
    np.testing.assert_array_equal(framed[8:22, 13:37], gt[8:22, 13:37])
    assert (framed[5, 10:40] == framed[5, 10]).all()


def test_pictures_leave_their_inputs_alone() -> None:
    lq, sr = random_image(8, 8), random_image(16, 16)
    before = lq.copy(), sr.copy()
    comparison_picture(lq, sr, sr, crop=Region(0, 0, 8, 8))
    np.testing.assert_array_equal(lq, before[0])
    np.testing.assert_array_equal(sr, before[1])


@pytest.mark.parametrize(
    ("lq", "sr", "gt", "crop", "message"),
    [
        ((8, 8), (18, 16), None, None, "no multiple"),
        ((8, 8), (4, 4), None, None, "no multiple"),
        ((8, 8), (16, 16), (16, 18), None, "differ"),
        ((8, 8), (16, 16), None, Region(10, 0, 8, 8), "outside"),
        ((8, 8), (16, 16), None, Region(0, 0, 0, 8), "no part"),
    ],
)
def test_sizes_that_do_not_belong_together_are_refused(
    lq: tuple[int, int], sr: tuple[int, int], gt: tuple[int, int] | None, crop: Region | None, message: str
) -> None:
    truth = None if gt is None else random_image(*gt)
    with pytest.raises(ValueError, match=message):
        comparison_picture(random_image(*lq), random_image(*sr), truth, crop=crop)


def test_a_scale_that_is_not_whole() -> None:
    lq, sr = random_image(7, 9), random_image(18, 22)  # x2.5: 17.5 and 22.5, rounded to even
    low, bicubic, ours = panels(comparison_picture(lq, sr), 18, 22)
    np.testing.assert_array_equal(low[0, [0, 21]], lq[0, [0, 8]])
    assert bicubic.shape == sr.shape
    np.testing.assert_array_equal(ours, sr)


def test_each_panel_needs_a_caption() -> None:
    with pytest.raises(ValueError, match="3 panels need as many captions"):
        comparison_picture(random_image(8, 8), random_image(16, 16), captions=["LR"])


def test_the_part_is_that_where_the_network_gains_most_over_bicubic() -> None:
    gt = random_image(60, 80)  # the strongest edges are everywhere
    bicubic, sr = gt // 2, gt // 2
    sr = sr.copy()
    sr[30:40, 50:60] = gt[30:40, 50:60]  # here the network is right
    sr[5:25, 5:25] = 255 - gt[5:25, 5:25]  # and here worse than bicubic
    part = most_improved_part(bicubic, sr, gt, 10, 10)
    assert part == Region(30, 50, 10, 10)


def test_the_gain_is_one_that_can_be_seen() -> None:
    """An error of 2 levels that goes away is 40 dB and invisible; one of 60 levels that halves is 6 dB."""
    gt = np.full((40, 40, 3), 128, np.uint8)
    bicubic, sr = gt.copy(), gt.copy()
    bicubic[:10, :10] += 2
    bicubic[20:30, 20:30] += 60
    sr[20:30, 20:30] += 30
    assert most_improved_part(bicubic, sr, gt, 10, 10) == Region(20, 20, 10, 10)


def test_the_part_of_a_small_image_is_all_of_it() -> None:
    gt = random_image(5, 7)
    assert most_improved_part(gt // 2, gt, gt, 16, 16) == Region(0, 0, 5, 7)
    assert most_improved_part(gt, gt, gt, 0, 0).height == 1


def test_the_part_has_captions_of_its_own() -> None:
    lq, sr = random_image(20, 30), random_image(40, 60, 1)
    part = Region(top=5, left=10, height=20, width=30)
    plain = comparison_picture(lq, sr, sr, crop=part)
    captioned = comparison_picture(lq, sr, sr, crop=part, crop_captions=["", "", "30 dB", ""])
    assert captioned.shape[0] == plain.shape[0] + STRIP
    np.testing.assert_array_equal(captioned[-40:], plain[-40:])
    strip = captioned[-40 - STRIP : -40]
    assert (strip != 255).any(axis=(0, 2)).nonzero()[0].min() >= 2 * (60 + GAP)
    with pytest.raises(ValueError, match="4 panels need as many captions"):
        comparison_picture(lq, sr, sr, crop=part, crop_captions=["", ""])


def test_bicubic_of_a_flat_image_is_flat() -> None:
    flat = np.full((6, 5, 3), 77, np.uint8)
    assert (bicubic_picture(flat, 4) == 77).all()


def test_the_picture_writer_raises_what_failed(tmp_path: Path) -> None:
    pixels = np.full((4, 5, 3), 7, np.uint8)
    writer = PictureWriter()
    for name in ("a/one.png", "a/two.png"):
        writer.write(tmp_path / name, pixels)
    writer.finish()
    assert np.array_equal(read_image(tmp_path / "a/two.png"), pixels)
    (tmp_path / "file").touch()
    writer = PictureWriter()
    writer.write(tmp_path / "file/one.png", pixels)
    with pytest.raises(InputError, match="a file, not a folder"):
        writer.finish()


def test_bicubic_is_not_shifted_where_a_scale_rounds_the_sides_apart() -> None:
    ramp = torch.arange(189, dtype=torch.float64).expand(3, 148, 189)  # x2.7: 400 / 148 is more than 510 / 189
    wide = bicubic_to(ramp, 400, 510)
    centres = (torch.arange(510) + 0.5) * 189 / 510 - 0.5
    assert wide.shape == (3, 400, 510)
    torch.testing.assert_close(wide[0, 9, 10:-10], centres[10:-10].double(), rtol=0, atol=1e-4)
