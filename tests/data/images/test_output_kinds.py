"""Which files can be written, and with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.images.output_kinds import FORMATS, Encoding, check_encoding, check_size, output_kind
from utils.errors import InputError


def paths(*suffixes: str) -> list[Path]:
    return [Path(f"a{suffix}") for suffix in suffixes]


def test_kinds_go_by_the_suffix() -> None:
    assert output_kind(Path("a.JPEG")).name == "JPEG"
    assert FORMATS == ("png", "jpg", "webp", "tif", "bmp", "gif", "avif", "jxl")
    with pytest.raises(ValueError, match=r'"\.xyz" is no known kind of image; use one of \.png'):
        output_kind(Path("a.xyz"))


@pytest.mark.parametrize(
    ("suffixes", "encoding", "message"),
    [
        ([".png"], Encoding(quality=90), r"--quality is for JPEG, .* and the results are \.png files; .*--format"),
        ([".png", ".tif"], Encoding(quality=90), r"the results are \.png and \.tif files"),
        ([".jpg"], Encoding(compression=9), r"--compression is for PNG and TIFF files, and the results are \.jpg"),
        ([], Encoding(compression=9), "no result is a picture"),
        ([".jpg"], Encoding(quality=0), r"--quality must be in 1 \.\. 100, got 0"),
        ([".jpg"], Encoding(quality=101), r"got 101"),
        ([".png"], Encoding(compression=10), r"--compression must be in 0 \.\. 9, got 10"),
        ([".webp"], Encoding(quality=90, lossless=True), "--lossless and --quality exclude each other"),
        ([".jpg"], Encoding(lossless=True), r"\.jpg files are not lossless here"),
        ([".avif"], Encoding(lossless=True), r"\.avif files are not lossless here"),
        ([".gif"], Encoding(lossless=True), r"\.gif files are not lossless here"),
    ],
)
def test_settings_that_do_nothing_are_refused(suffixes: list[str], encoding: Encoding, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_encoding(paths(*suffixes), encoding)


@pytest.mark.parametrize(
    ("suffixes", "encoding"),
    [
        ([".jpg"], Encoding(quality=1)),
        ([".webp"], Encoding(quality=100)),
        ([".webp"], Encoding(lossless=True)),
        ([".png", ".tif"], Encoding(compression=0, lossless=True)),
        ([".bmp", ".gif"], Encoding()),
    ],
)
def test_settings_that_fit_are_accepted(suffixes: list[str], encoding: Encoding) -> None:
    check_encoding(paths(*suffixes), encoding)


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "JXL"])
def test_kinds_that_pillow_lacks_are_refused(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    suffix = f".{kind.lower()}"
    Image.init()
    monkeypatch.delitem(Image.SAVE, kind, raising=False)
    with pytest.raises(InputError, match=rf"\{suffix} files cannot be written by the installed Pillow"):
        check_encoding(paths(suffix), Encoding())
    saved: Any = {**Image.SAVE, kind: None}
    monkeypatch.setattr(Image, "SAVE", saved)
    check_encoding(paths(suffix), Encoding(quality=90))


def test_pictures_too_large_for_a_kind_are_refused() -> None:
    check_size(Path("a.webp"), 16383, 16383)
    check_size(Path("a.png"), 100_000, 100_000)
    with pytest.raises(InputError, match=r"a\.webp: the result has 5 x 16384 pixels, and \.webp files at most 16383"):
        check_size(Path("a.webp"), 16384, 5)
    for name, most in (("a.bmp", (1 << 30) - 512), ("a.gif", (1 << 31) - 1)):
        check_size(Path(name), most // 50_000, 50_000)
        with pytest.raises(InputError, match=rf"x 50000 pixels, and \{name[1:]} files at most {most:,} of them"):
            check_size(Path(name), 50_000, most // 50_000 + 1)
