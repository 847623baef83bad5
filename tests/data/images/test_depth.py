"""Pictures whose white is neither 255 nor 65535 come out white, with 8 and with 16 bits."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.images.depth import white_level
from data.images.files import read_image
from data.images.photo import read_photo

RAMP = np.linspace(0, 1, 64)[None, :, None] * np.ones((16, 1, 3))


def ramp(top: int) -> np.ndarray:
    return (RAMP * top).round().astype(np.uint16)


def pnm(top: int) -> bytes:
    return b"P6\n# made by hand\n64 16\n%d\n" % top + ramp(top).astype(">u2" if top > 255 else np.uint8).tobytes()


@pytest.mark.parametrize("top", [15, 100, 1023, 4095, 65535])
def test_portable_anymaps_of_any_white(top: int, tmp_path: Path) -> None:
    path = tmp_path / "a.ppm"
    path.write_bytes(pnm(top))
    pixels = read_photo(path).pixels
    white = 255 if top < 256 else 65535
    assert pixels.dtype == (np.uint8 if top < 256 else np.uint16)
    assert np.abs(pixels.astype(int) - (ramp(top) / top * white).round()).max() <= 1
    assert np.abs(read_image(path).astype(float) - ramp(top) / top * 255).max() <= 1


def test_letters_instead_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P2 2 1 15\n0 15\n")
    assert read_photo(tmp_path / "a.pgm").pixels.ravel().tolist() == [0, 255]
    (tmp_path / "b.pbm").write_bytes(b"P1\n2 1\n0 1\n")
    assert read_photo(tmp_path / "b.pbm").pixels.ravel().tolist() == [255, 0]


@pytest.mark.parametrize(("bits", "top"), [(10, 1023), (12, 4095)])
def test_avif_of_more_than_8_bits(bits: int, top: int, tmp_path: Path) -> None:
    flags = [getattr(cv2, "IMWRITE_AVIF_DEPTH", -1), bits, getattr(cv2, "IMWRITE_AVIF_QUALITY", -1), 100]
    try:
        content = bytes(cv2.imencode(".avif", ramp(top), flags)[1])
    except cv2.error:
        pytest.skip("this OpenCV writes no AVIF")
    (tmp_path / "a.avif").write_bytes(content)
    assert np.abs(read_photo(tmp_path / "a.avif").pixels / 65535 - RAMP).max() < 0.01
    assert np.abs(read_image(tmp_path / "a.avif") / 255 - RAMP).max() < 0.01


def test_jpeg_2000_says_its_depth() -> None:
    head = b"\xff\x4f\xff\x51" + bytes(38)
    assert white_level(head + b"\x09\1\1", "JPEG 2000") == 1023
    assert white_level(head + b"\x07\1\1", "JPEG 2000") is None
    stream = io.BytesIO()
    Image.fromarray(ramp(65535)[..., 0]).save(stream, "JPEG2000")
    assert white_level(stream.getvalue(), "JPEG 2000") is None
    assert white_level(b"anything", "PNG") is None
