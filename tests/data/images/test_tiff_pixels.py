"""TIFF files of kinds that OpenCV decodes wrongly: opacity, channels apart, white as 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from data.images.metadata import texts_of_exif
from data.images.photo import read_photo
from tests.data.pictures import PROFILE, levels
from utils.errors import InputError


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("extra", [[], ["unassalpha"], ["assocalpha"], ["unspecified"], ["unspecified", "unassalpha"]])
def test_colours_and_opacity_are_those_of_the_file(
    tmp_path: Path, kind: Any, colours: int, planar: Any, extra: list[str]
) -> None:
    top = np.iinfo(kind).max
    pixels = levels(6, 5, colours, kind)
    alpha = np.maximum(levels(6, 5, 1, kind, 1), top // 2)
    stored = pixels
    if extra == ["assocalpha"]:
        stored = np.rint(pixels.astype(float) * alpha / top).astype(kind)
    stored = np.concatenate([stored, *(alpha if name.endswith("alpha") else alpha // 2 for name in extra)], axis=2)
    if stored.shape[2] == 1:
        planar, stored = None, stored[..., 0]
    elif planar == "separate":
        stored = stored.transpose(2, 0, 1).copy()
    path = tmp_path / "a.tif"
    photometric = "rgb" if colours == 3 else "minisblack"
    tifffile.imwrite(path, stored, photometric=photometric, planarconfig=planar, extrasamples=extra, compression="zlib")
    photo = read_photo(path)
    assert photo.pixels.dtype == kind
    expected = np.broadcast_to(pixels, photo.pixels.shape)
    close = 3 if extra == ["assocalpha"] else 0  # they were rounded after the multiplication
    assert np.abs(photo.pixels.astype(int) - expected).max() <= close
    if any(name.endswith("salpha") or name.endswith("calpha") for name in extra):
        assert photo.alpha is not None
        assert np.array_equal(photo.alpha, alpha)
    else:
        assert photo.alpha is None or (photo.alpha == top).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_may_be_stored_as_zero(tmp_path: Path, kind: Any) -> None:
    pixels = levels(6, 5, 1, kind)
    tifffile.imwrite(tmp_path / "a.tif", np.iinfo(kind).max - pixels[..., 0], photometric="miniswhite")
    assert np.array_equal(read_photo(tmp_path / "a.tif").pixels, pixels)


def test_cmyk_is_opaque(tmp_path: Path) -> None:
    Image.new("CMYK", (5, 4), (10, 20, 30, 40)).save(tmp_path / "a.tif")
    photo = read_photo(tmp_path / "a.tif")
    assert photo.alpha is None
    assert np.abs(photo.pixels - np.array([207, 199, 190])).max() <= 1


@pytest.mark.parametrize("orientation", [3, 6])
def test_odd_pages_are_turned_upright_too(tmp_path: Path, orientation: int) -> None:
    stored = levels(6, 5, 2, np.uint16)
    tags: Any = [(274, 3, 1, orientation, True), (271, 2, None, "Maker", True), (700, 1, 4, b"<x/>", True)]
    profile = PROFILE[:16] + b"RGB " + PROFILE[20:]
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"],
        extratags=tags, metadata=None, resolution=(300, 200), resolutionunit="INCH", iccprofile=profile,
    )  # fmt: skip
    photo = read_photo(tmp_path / "a.tif")
    assert np.array_equal(photo.pixels[..., 0], np.rot90(stored[..., 0], 2 if orientation == 3 else -1))
    assert (photo.profile, photo.xmp, photo.dpi) == (profile, b"<x/>", (300, 200))
    assert texts_of_exif(photo.exif)[0][271] == "Maker"


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    Image.new("LAB", (5, 4), (100, 20, 30)).save(tmp_path / "lab.tif")
    with pytest.raises(InputError, match=r"lab\.tif: holds CIELAB colours; save it as RGB"):
        read_photo(tmp_path / "lab.tif")
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, levels(60, 50, 2, np.uint16), photometric="minisblack", planarconfig="contig")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"cut\.tif: the image cannot be read: it is cut short"):
        read_photo(path)
