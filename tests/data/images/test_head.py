"""Sizes from the heads of files of every kind; the limit held against them."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from data.images.head import MAX_PIXELS, check_pixels, head_size, max_pixels
from tests.data.pictures import noise, png_of
from utils.errors import InputError

PICTURE = noise(72, 104)


def by_pillow(kind: str, mode: str = "RGB", **how: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(file, kind, **how)
    return file.getvalue()


def by_tifffile(**how: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, PICTURE, photometric="rgb", **how)
    return file.getvalue()


def with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Maker " * 2000
    return by_pillow("JPEG", exif=exif)


FILES = {
    "png": by_pillow("PNG"),
    "jpeg": by_pillow("JPEG"),
    "progressive jpeg": by_pillow("JPEG", progressive=True),
    "jpeg with exif": with_exif(),
    "bmp": by_pillow("BMP"),
    "gif": by_pillow("GIF"),
    "lossy webp": by_pillow("WEBP"),
    "lossless webp": by_pillow("WEBP", lossless=True),
    "webp with opacity": by_pillow("WEBP", "RGBA"),
    "webp with a profile": by_pillow("WEBP", icc_profile=b"p" * 200),
    "tiff": by_pillow("TIFF"),
    "big-endian tiff": by_tifffile(byteorder=">"),
    "big tiff": by_tifffile(bigtiff=True),
    "ppm": by_pillow("PPM"),
    "jpeg 2000": cv2.imencode(".jp2", PICTURE)[1].tobytes(),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_head_tells_the_size(kind: str) -> None:
    assert head_size(FILES[kind]) == (72, 104)


@pytest.mark.parametrize("kind", FILES)
def test_damaged_heads_tell_nothing_and_raise_nothing(kind: str) -> None:
    data = FILES[kind]
    for end in range(60):
        head_size(data[:end])
    rng = np.random.default_rng(0)
    for _ in range(100):
        broken = bytearray(data[:400])
        for place in rng.integers(2, len(broken), 5):
            broken[place] = rng.integers(256)
        head_size(bytes(broken))


def test_bitmaps_may_stand_on_their_head() -> None:
    data = bytearray(FILES["bmp"])
    data[22:26] = (-72).to_bytes(4, "little", signed=True)
    assert head_size(bytes(data)) == (72, 104)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused() -> None:
    bomb = png_of(30000, 30000, bits=1)
    assert len(bomb) < 200_000
    expected = r"a.png: it has 30,000 x 30,000 pixels, and no more than 268,435,456 are decoded; .* --max_pixels raises"
    with pytest.raises(InputError, match=expected):
        check_pixels(bomb, "a.png", MAX_PIXELS)
    check_pixels(bomb, "a.png", 900_000_000)
    with pytest.raises(InputError, match="no more than 899,999,999"):
        check_pixels(bomb, "a.png", 899_999_999)


def test_the_environment_raises_the_limit_of_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENCV_IO_MAX_IMAGE_PIXELS", raising=False)
    assert max_pixels() == MAX_PIXELS
    with pytest.raises(InputError, match="the environment variable OPENCV_IO_MAX_IMAGE_PIXELS raises the limit"):
        check_pixels(png_of(30000, 30000, bits=1), "a.png")
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 30))
    check_pixels(png_of(30000, 30000, bits=1), "a.png")
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "many")
    assert max_pixels() == MAX_PIXELS
