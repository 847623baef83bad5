"""Photo files that are written: what they hold comes back, what they cannot hold is named."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.images.fitting import eight_bits
from data.images.output_kinds import Encoding, check_encoding
from data.images.photo import Photo, read_photo
from data.images.photo_writer import write_photo
from tests.data.pictures import BLOCKS, PROFILE, exif, levels


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
    assert found.exif is not None
    assert dropped == (() if suffix.lower() == ".png" else ("EXIF",))  # but for its texts


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


def test_gif_and_avif_hold_what_they_can(tmp_path: Path) -> None:
    photo = Photo(BLOCKS.astype(np.uint16) * 257, levels(64, 48, 1, np.uint16), PROFILE, exif(1)[6:])
    assert write_photo(tmp_path / "a.gif", photo) == (
        "the lower 8 of 16 bits", "half transparency", "colour profile", "EXIF"
    )  # fmt: skip
    found = read_photo(tmp_path / "a.gif")
    assert found.alpha is not None
    seen = found.alpha[..., 0] > 0
    assert np.array_equal(found.pixels[seen], BLOCKS[seen])
    assert photo.alpha is not None
    assert np.array_equal(seen, photo.alpha[..., 0] >= 32768)
    if ".avif" in Image.registered_extensions():
        assert write_photo(tmp_path / "a.avif", photo) == ("the lower 8 of 16 bits",)
        assert read_photo(tmp_path / "a.avif").profile == PROFILE


def size_of(path: Path, photo: Photo, **settings: Any) -> int:
    write_photo(path, photo, Encoding(**settings))
    return path.stat().st_size


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_quality_decides_between_size_and_likeness(tmp_path: Path, suffix: str) -> None:
    if suffix == ".avif" and suffix not in Image.registered_extensions():
        pytest.skip("Pillow without AVIF")
    photo = Photo(levels(64, 64, 3, np.uint8))
    path = tmp_path / f"a{suffix}"
    sizes, errors = [], []
    for quality in (20, 60, 95):
        sizes.append(size_of(path, photo, quality=quality))
        errors.append(np.abs(read_photo(path).pixels.astype(int) - photo.pixels).mean())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_jpeg_has_quality_95_and_webp_is_lossless_where_nothing_is_said(tmp_path: Path) -> None:
    photo = Photo(levels(32, 32, 3, np.uint8))
    assert size_of(tmp_path / "a.jpg", photo) == size_of(tmp_path / "b.jpg", photo, quality=95)
    assert size_of(tmp_path / "a.webp", photo) == size_of(tmp_path / "b.webp", photo, lossless=True)
    assert np.array_equal(read_photo(tmp_path / "a.webp").pixels, photo.pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_compression_changes_the_size_alone(tmp_path: Path, suffix: str) -> None:
    photo = Photo(BLOCKS)
    path = tmp_path / f"a{suffix}"
    sizes = [size_of(path, photo, compression=level) for level in (0, 1, 9)]
    assert sizes[0] > sizes[1] >= sizes[2]
    assert np.array_equal(read_photo(path).pixels, BLOCKS)


def test_jpeg_xl_is_written_where_pillow_has_its_plugin(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    photo = Photo(BLOCKS, levels(64, 48, 1, np.uint8), PROFILE, exif(1)[6:], b"<x/>")
    check_encoding([tmp_path / "a.jxl"], Encoding(lossless=True))
    assert write_photo(tmp_path / "a.jxl", photo, Encoding(lossless=True)) == ("colour profile",)
    assert b"<x/>" in (tmp_path / "a.jxl").read_bytes()
    with Image.open(tmp_path / "a.jxl") as image:
        assert np.array_equal(np.asarray(image)[..., :3], BLOCKS)
        assert image.getexif()[0x010F] == "Maker"
    assert size_of(tmp_path / "a.jxl", photo, quality=20) < size_of(tmp_path / "a.jxl", photo, quality=95)


def test_unknown_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'"\.xyz" is no known kind of image'):
        write_photo(tmp_path / "a.xyz", Photo(BLOCKS))


def test_a_deep_picture_becomes_one_of_eight_bits_in_little_memory() -> None:
    deep = np.broadcast_to(np.arange(0, 65536, 8, dtype=np.uint16)[:, None, None], (8192, 1000, 3))
    tracemalloc.start()
    result = eight_bits(deep)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.1 * result.nbytes
    assert np.array_equal(result, np.rint(deep[:, :1] / 257).astype(np.uint8).repeat(1000, axis=1))


def test_a_palette_is_chosen_of_a_part_of_a_large_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.linspace(0, 255, 90).astype(np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp, ramp[::-1]), axis=2)
    found = []
    for most in (1 << 22, 500):
        monkeypatch.setattr("data.images.photo_writer._SAMPLE", most)
        write_photo(tmp_path / "a.gif", Photo(pixels))
        found.append(read_photo(tmp_path / "a.gif").pixels.astype(int))
    assert not np.array_equal(found[0], found[1])
    assert all(np.abs(each - pixels).mean() < 6 for each in found)
