"""Photo files: what is read of them: depth, transparency of every kind, orientation, damaged notes."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from data.images.photo import Photo, picture_size, read_photo
from data.images.photo_writer import write_photo
from data.images.png import Chunk
from data.images.png_stream import SIGNATURE
from tests.data.pictures import BLOCKS, PROFILE, exif, levels
from utils.errors import InputError


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    options: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    how = options.get(kind, {})
    source = tmp_path / "in"
    Image.fromarray(BLOCKS).save(source, kind, exif=exif(orientation), **how)
    with Image.open(source) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    photo = read_photo(source)
    assert photo.pixels.shape == expected.shape
    assert np.abs(photo.pixels.astype(int) - expected).max() < 30
    write_photo(tmp_path / "out.png", photo)
    with Image.open(tmp_path / "out.png") as image:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), photo.pixels)  # not turned again
        block = image.getexif()
        assert (block[0x0112], block[0x010F]) == (1, "Maker")
        assert 0xA002 not in block.get_ifd(0x8769)


@pytest.mark.parametrize("mode", ["LA", "P", "1", "CMYK", "I;16", "RGBA", "L"])
def test_kinds_of_pixels(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(BLOCKS)
    image = Image.fromarray(levels(64, 48, 1, np.uint16)[..., 0]) if mode == "I;16" else image.convert(mode)
    path = tmp_path / "a"
    image.save(path, "JPEG" if mode == "CMYK" else "PNG", icc_profile=PROFILE[:16] + b"CMYK" + PROFILE[20:])
    photo = read_photo(path)
    assert photo.pixels.shape == (64, 48, 1 if mode in ("1", "I;16", "L") else 3)
    assert photo.pixels.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    assert (photo.alpha is not None) == (mode in ("LA", "RGBA"))
    assert photo.profile is None  # of CMYK: it does not describe these pixels
    assert photo.lost == ("colour profile (of CMYK)",)


def png_of(colour: int, depth: int, row: bytes, more: list[Chunk]) -> bytes:
    """A PNG file of four pixels in one row."""
    parts = [
        Chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, depth, colour, 0, 0, 0)),
        *more,
        Chunk(b"IDAT", zlib.compress(b"\0" + row)),
        Chunk(b"IEND", b""),
    ]
    return SIGNATURE + b"".join(chunk.packed() for chunk in parts)


def packed(levels: list[int], depth: int) -> bytes:
    bits = "".join(format(level, f"0{depth}b") for level in levels)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_level_of_a_grey_png_is_kept(tmp_path: Path, depth: int) -> None:
    top = (1 << depth) - 1
    levels = [0, 1, top, max(0, top - 1)]
    (tmp_path / "a.png").write_bytes(png_of(0, depth, packed(levels, depth), [Chunk(b"tRNS", struct.pack(">H", 1))]))
    photo = read_photo(tmp_path / "a.png")
    assert photo.alpha is not None
    assert photo.alpha[0, :, 0].tolist() == [0 if level == 1 else photo.top for level in levels]
    assert photo.pixels[0].tolist() == [[level * photo.top // top] * 3 for level in levels]


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_a_png_is_kept(tmp_path: Path, depth: int) -> None:
    row = b"".join(packed([level, level, level], depth) for level in (0, 1, 200, 1))
    (tmp_path / "a.png").write_bytes(png_of(2, depth, row, [Chunk(b"tRNS", struct.pack(">HHH", 1, 1, 1))]))
    photo = read_photo(tmp_path / "a.png")
    assert photo.alpha is not None
    assert photo.alpha[0, :, 0].tolist() == [photo.top, 0, photo.top, 0]
    assert photo.pixels[0, :, 1].tolist() == [0, 1, 200, 1]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_colours_of_a_palette_are_kept(tmp_path: Path, depth: int) -> None:
    more = [Chunk(b"PLTE", bytes(range(10, 16))), Chunk(b"tRNS", bytes([0, 100]))]
    (tmp_path / "a.png").write_bytes(png_of(3, depth, packed([0, 1, 0, 1], depth), more))
    photo = read_photo(tmp_path / "a.png")
    assert photo.alpha is not None
    assert photo.alpha[0, :, 0].tolist() == [0, 100, 0, 100]
    assert photo.pixels[0].tolist() == [[10, 11, 12], [13, 14, 15]] * 2


def test_the_transparent_colour_of_a_gif_is_kept(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "a.gif", transparency=1)
    photo = read_photo(tmp_path / "a.gif")
    assert photo.alpha is not None
    assert photo.alpha[0, :, 0].tolist() == [255, 0, 255, 0]
    assert photo.pixels[0, [0, 2]].tolist() == [[10, 20, 30], [70, 80, 90]]
    (tmp_path / "a.gif").write_bytes((tmp_path / "a.gif").read_bytes()[:20])
    with pytest.raises(InputError, match=r"a\.gif: the image cannot be read"):
        read_photo(tmp_path / "a.gif")


@pytest.mark.shared
def test_the_grey_picture_with_a_transparent_level_of_the_cases_keeps_it(shared: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(shared / "cases/make_pictures.py"), str(tmp_path)], check=True)
    photo = read_photo(tmp_path / "grey_trns.png")
    with Image.open(tmp_path / "grey_trns.png") as image:
        expected = np.asarray(image.convert("RGBA"))
    assert photo.alpha is not None
    assert (photo.alpha == 0).any()
    assert np.array_equal(np.concatenate([photo.pixels, photo.alpha], axis=2), expected)


def test_damaged_notes_do_not_matter(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(BLOCKS).save(stream, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff rubbish", quality=95)
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    assert read_photo(tmp_path / "a.jpg").pixels.shape == BLOCKS.shape


def test_large_pictures_are_no_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    write_photo(tmp_path / "a.png", Photo(BLOCKS, profile=PROFILE))
    assert read_photo(tmp_path / "a.png").profile == PROFILE
    assert picture_size(tmp_path / "a.png") == (64, 48)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_what_cannot_be_used(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((4, 4, 3), np.float32), photometric="rgb")
    with pytest.raises(InputError, match=r"float\.tif: holds values of type float32; save it with 8 or 16 bits"):
        read_photo(tmp_path / "float.tif")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png: the image cannot be read"):
        read_photo(tmp_path / "a.png")
    assert picture_size(tmp_path / "a.png") is None
