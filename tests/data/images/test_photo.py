"""Photo files: what they carry survives, or is named; orientations; damaged notes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from data.images.files import SUFFIXES
from data.images.photo import Photo, picture_size, read_photo, write_photo
from tests.data.pictures import noise
from utils.errors import InputError

BLOCKS = noise(8, 6).repeat(8, axis=0).repeat(8, axis=1)  # JPEG keeps them
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def levels(height: int, width: int, channels: int, kind: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max + 1, (height, width, channels), dtype=kind)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112], block[0x010F] = orientation, "Maker"
    block.get_ifd(0x8769)[0xA002] = 6
    return block.tobytes()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".PNG", ".tiff"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "alpha"), [(1, False), (3, False), (3, True)])
def test_nothing_is_lost(tmp_path: Path, suffix: str, kind: Any, channels: int, alpha: bool) -> None:
    profile = PROFILE if channels == 3 else PROFILE[:16] + b"GRAY" + PROFILE[20:]
    written = Photo(
        levels(7, 5, channels, kind), levels(7, 5, 1, kind, seed=1) if alpha else None, profile, exif(1)[6:]
    )
    path = tmp_path / f"a{suffix}"
    dropped = write_photo(path, written)
    found = read_photo(path)
    assert found.pixels.dtype == kind
    assert np.array_equal(found.pixels, written.pixels)
    assert (found.alpha is None) != alpha
    if alpha:
        assert np.array_equal(found.alpha, written.alpha)  # type: ignore[arg-type]
    assert found.profile == profile
    assert dropped == (() if suffix.lower() == ".png" else ("EXIF",))
    assert (found.exif is None) == (suffix.lower() != ".png")


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        (".jpg", ("the lower 8 of 16 bits", "transparency")),
        (".webp", ("the lower 8 of 16 bits",)),
        (".bmp", ("the lower 8 of 16 bits", "transparency", "colour profile", "EXIF")),
    ],
)
def test_what_is_lost_is_named(tmp_path: Path, suffix: str, expected: tuple[str, ...]) -> None:
    deep = BLOCKS.astype(np.uint16) * 257
    photo = Photo(deep, levels(64, 48, 1, np.uint16), PROFILE, exif(1)[6:])
    path = tmp_path / f"a{suffix}"
    assert write_photo(path, photo) == expected
    found = read_photo(path)
    assert np.abs(found.pixels.astype(int) - BLOCKS).max() <= (30 if suffix == ".jpg" else 0)
    if suffix != ".bmp":
        assert found.profile == PROFILE
        assert found.exif is not None


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
        if kind != "TIFF":
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
    with pytest.raises(ValueError, match=r'"\.gif" is no known kind of image'):
        write_photo(tmp_path / "a.gif", Photo(BLOCKS))
    assert ".gif" not in SUFFIXES
