"""Kinds of files by their names and contents: what Pillow, OpenCV and cameras write, and what is none of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from data.images.files import decode_image, read_image
from data.images.kinds import PICTURE_SUFFIXES, is_film, is_picture_name, kind_of, kind_of_content
from tests.data.pictures import noise
from utils.errors import InputError

PIXELS = noise(12, 16)
BOX = b"\0\0\0\x18ftyp%s\0\0\0\0mif1"


def by_pillow(kind: str, **how: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **how)
    return stream.getvalue()


def by_opencv(suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, cv2.cvtColor(PIXELS, cv2.COLOR_RGB2BGR))[1])


LOSSLESS = {
    "PNG": by_pillow("PNG"),
    "BMP": by_pillow("BMP"),
    "TIFF": by_pillow("TIFF"),
    "WebP": by_pillow("WEBP", lossless=True),
    "PNM": by_pillow("PPM"),
    "JPEG 2000": by_pillow("JPEG2000"),
    "Sun raster": by_opencv(".ras"),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_pictures_without_a_telling_name_are_known_and_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "scan.0001"
    path.write_bytes(LOSSLESS[kind])
    found = kind_of(path)
    assert found is not None
    assert (found.name, found.role) == (kind, "picture")
    assert np.array_equal(read_image(path), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "AVIF"])
def test_kinds_that_lose_something_are_known_and_read(kind: str) -> None:
    if kind == "AVIF" and "AVIF" not in Image.registered_extensions().values():
        pytest.skip("this Pillow writes no AVIF")
    flat = np.full((16, 16, 3), (90, 120, 150), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(flat).save(stream, kind)
    found = kind_of_content(stream.getvalue())
    assert found is not None
    assert (found.name, found.role) == (kind, "picture")
    assert np.abs(decode_image(stream.getvalue(), "x").astype(int) - flat).max() <= 4


@pytest.mark.parametrize("kind", ["TGA", "PCX", "SGI", "DIB"])
def test_kinds_that_opencv_does_not_know_are_read_by_pillow(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(by_pillow(kind))
    found = kind_of(path)
    assert found is not None
    assert found.role == "picture"
    assert np.array_equal(read_image(path), PIXELS)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="it is damaged, or of a kind that is not supported"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (BOX % b"heic", "HEIC"),
        (BOX % b"mif1", "HEIC"),
        (BOX % b"avif", "AVIF"),
        (BOX % b"crx ", "camera RAW"),
        (b"II*\0\x10\0\0\0CR\2\0", "camera RAW"),
        (b"FUJIFILMCCD-RAW 0201", "camera RAW"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg xmlns="x">', "SVG"),
        (b"PF\n3 4\n-1.0\n", "PFM"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (BOX % b"isom", "MP4"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "MP4"),
        (b"\x1a\x45\xdf\xa3\1\0", "Matroska"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI"),
        ((b"\x47" + bytes(187)) * 3, "MPEG"),
    ],
)
def test_other_kinds_are_known_by_their_first_bytes(content: bytes, kind: str) -> None:
    found = kind_of_content(content)
    assert found is not None
    assert found.name == kind


@pytest.mark.parametrize(
    "content",
    [b"", b"BM", b"BM is how this text begins, and it goes on for a while", b"P5 in Prague", b"MM", b"<html><svg>",
     b"RIFF\0\0\0\0WAVEfmt ", BOX % b"M4A ", b"OggS" + bytes(24) + b"\1\x1eOpusHead", bytes(600), b"P6\n"],
)  # fmt: skip
def test_text_sound_and_zeros_are_neither_pictures_nor_films(content: bytes, tmp_path: Path) -> None:
    assert kind_of_content(content) is None
    (tmp_path / "x").write_bytes(content)
    assert kind_of(tmp_path / "x") is None


def test_names_that_say_enough_are_believed_without_opening_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the file was opened")

    monkeypatch.setattr("data.images.kinds.open_regular", refuse)
    for name, role in {"a.PNG": "picture", "b.jfif": "picture", "c.MP4": "film", "d.txt": None, "e.json": None}.items():
        kind = kind_of(tmp_path / name)
        assert (None if kind is None else kind.role) == role
    with pytest.raises(AssertionError, match="was opened"):
        kind_of(tmp_path / "scan.0001")


def test_endings_of_kinds_that_cannot_be_read_are_believed_where_the_content_does_not_differ(tmp_path: Path) -> None:
    """A camera's raw file looks like TIFF, and shows a preview to those who read it so."""
    for name, content, kind in [
        ("a.heic", LOSSLESS["PNG"], "PNG"),
        ("b.heic", BOX % b"heic", "HEIC"),
        ("c.nef", LOSSLESS["TIFF"], "camera RAW"),
        ("d.psd", b"something", "Photoshop"),
    ]:
        (tmp_path / name).write_bytes(content)
        found = kind_of(tmp_path / name)
        assert found is not None
        assert found.name == kind


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.nef", LOSSLESS["TIFF"], r"a\.nef: the image cannot be read: it is camera RAW, .*; develop it to a TIFF"),
        ("phone.jpg", BOX % b"heic", "it is HEIC, a kind that is not supported; save it as PNG first"),
        ("clip.png", BOX % b"isom", "it is MP4, a film"),
        ("light.hdr", b"#?RADIANCE\n", "its values are not levels"),
        ("x.ico", b"\0\0\1\0", "by its name it is of the kind icon, which is not supported; save it as PNG first"),
    ],
)
def test_what_cannot_be_read_is_called_by_its_name(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / name)


def test_names() -> None:
    assert {".png", ".jpg", ".jfif", ".jpe", ".dib", ".pgm", ".tiff", ".jp2", ".avif", ".gif"} <= set(PICTURE_SUFFIXES)
    assert is_picture_name("deep/A.JFIF")
    assert not is_picture_name("a.heic")
    assert not is_film(Path("nowhere"))
