"""--resize: what is asked for, and what becomes of pixels and of transparency."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.images.photo import Photo
from data.images.resize import Resize, parse_resize, resized
from tests.data.pictures import PROFILE, levels
from utils.errors import InputError


@pytest.mark.parametrize(
    ("words", "wish", "target"),
    [
        (["2x"], Resize(factor=2), (60, 80)),
        (["1.5x"], Resize(factor=1.5), (45, 60)),
        (["1920x1080"], Resize(size=(1080, 1920)), (1080, 1920)),
        (["longest", "3840"], Resize(longest=3840), (2880, 3840)),
        (["0.001x"], Resize(factor=0.001), (1, 1)),
    ],
)
def test_sizes_are_understood(words: list[str], wish: Resize, target: tuple[int, int]) -> None:
    assert parse_resize(words) == wish
    assert wish.target(30, 40) == target


@pytest.mark.parametrize(
    "text", ["2", "x2", "0x", "0x5", "5x0", "-2x", "longest", "longest 0", "longest x", "wide 5", "1x2x3"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--resize .*: expected a factor"):
        parse_resize(text.split())


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_flat_pictures_stay_flat_and_the_rest_is_kept(kind: Any, channels: int) -> None:
    level = np.iinfo(kind).max * 3 // 4
    pixels = np.full((16, 12, channels), level, kind)
    alpha = np.full((16, 12, 1), 7, kind)
    result = resized(Photo(pixels, alpha, PROFILE, b"e"), 5, 30)
    assert result.pixels.shape == (5, 30, channels)
    assert result.alpha is not None
    assert (result.pixels == level).all()
    assert (result.alpha == 7).all()
    assert (result.profile, result.exif) == (PROFILE, b"e")
    assert result.pixels.dtype == result.alpha.dtype == kind


def test_shrinking_looks_at_every_pixel() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), 32)[None, :, None].repeat(64, axis=0)
    middle = resized(Photo(stripes), 8, 8).pixels[1:-1, 1:-1]
    assert (np.abs(middle.astype(int) - 127) <= 2).all()


def test_colours_beneath_transparency_do_not_come_into_the_edges() -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    alpha = np.zeros((32, 32, 1), np.uint8)
    pixels[:, 13:], alpha[:, 13:] = 255, 255  # white, and black where it is transparent
    result = resized(Photo(pixels, alpha), 8, 8)
    assert result.alpha is not None
    edge = result.alpha > 0
    assert (result.alpha[edge] < 255).any()
    assert (result.pixels[edge[..., 0]] >= 254).all()


@pytest.mark.parametrize("size", [(37, 20), (130, 150), (100, 41)])
@pytest.mark.parametrize("transparent", [False, True])
def test_bands_make_what_one_piece_makes(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], transparent: bool
) -> None:
    photo = Photo(levels(100, 80, 3, np.uint8), levels(100, 80, 1, np.uint8) // 2 + 128 if transparent else None)
    whole = resized(photo, *size)
    monkeypatch.setattr("data.images.resize._BAND", 500)
    banded = resized(photo, *size)
    assert np.abs(whole.pixels.astype(int) - banded.pixels).max() <= 1
    if not transparent:
        plane = Image.fromarray(photo.pixels[..., 1].astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
        assert np.abs(whole.pixels[..., 1] - np.asarray(plane).clip(0, 255)).max() <= 0.51
    elif whole.alpha is not None and banded.alpha is not None:
        assert np.abs(whole.alpha.astype(int) - banded.alpha).max() <= 1


def test_a_picture_of_that_size_is_left_alone() -> None:
    photo = Photo(levels(4, 5, 3, np.uint8))
    assert resized(photo, 4, 5) is photo
