"""What files carry besides pixels is kept or named, for every kind of source and of result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from data.images import png
from data.images.frames import open_frames
from data.images.metadata import read_metadata, texts_of_exif
from data.images.photo import Photo, read_photo
from data.images.photo_writer import write_frames, write_photo
from data.images.png_stream import write_png
from tests.data.pictures import BLOCKS, PROFILE

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="%d" dc:title="Tower"/></x:xmpmeta>'
PROPERTIES = {  # of a Photo, and what losses of it are called
    "profile": ("colour profile",),
    "exif": ("EXIF",),
    "xmp": ("XMP",),
    "dpi": ("resolution",),
    "colour": ("gamma",),
    "texts": ("texts (Title)", "texts (Comment)", "texts (Comment, Title)"),
}
CARRIED = {  # by the sources below
    "png": {"exif", "xmp", "dpi", "colour", "texts"},  # a profile would stand above the gamma
    "jpg": {"profile", "exif", "xmp", "dpi", "texts"},
    "webp": {"profile", "exif", "xmp"},
    "tif": {"profile", "exif", "xmp", "dpi"},
    "bmp": {"dpi"},
    "gif": {"texts"},
    "avif": {"profile", "exif", "xmp"},
}
HELD = {  # by the results
    "png": {*PROPERTIES},
    "jpg": {"profile", "exif", "xmp", "dpi"},  # and of the texts a comment
    "webp": {"profile", "exif", "xmp"},
    "tif": {"profile", "xmp", "dpi"},  # and of EXIF the texts
    "bmp": {"dpi"},
    "gif": set(),  # but a comment
    "avif": {"profile", "exif", "xmp"},
}


def camera_exif(orientation: int = 1) -> bytes:
    block = Image.Exif()
    block[0x0112], block[0x010F] = orientation, "Maker"
    block.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    return block.tobytes()


def write_source(path: Path) -> None:
    """A picture with all that this kind of file can carry and Pillow writes; PNG by its chunks."""
    image = Image.fromarray(BLOCKS)
    notes: dict[str, Any] = {"icc_profile": PROFILE, "exif": camera_exif(), "xmp": XMP % 1}
    iptc = b"\x1c\x02\x05\x00\x05Tower"
    if path.suffix == ".png":
        added = [
            png.Chunk(b"gAMA", (100000).to_bytes(4, "big")),  # linear light: not what files are taken for
            png.dpi_chunk((300, 200)),
            png.Chunk(b"eXIf", camera_exif()[6:]),
            png.xmp_chunk(XMP % 1),
            png.Chunk(b"tEXt", b"Title\0Tower"),
            png.text_chunk("Comment", "Zürich"),
        ]
        with path.open("wb") as file:
            write_png(file, [BLOCKS], b"".join(chunk.packed() for chunk in added))
    elif path.suffix == ".jpg":
        resource = b"8BIM\x04\x04\0\0" + len(iptc).to_bytes(4, "big") + iptc
        segments = [(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + notes.pop("xmp")), (0xED, b"Photoshop 3.0\0" + resource)]
        extra = b"".join(bytes([0xFF, mark]) + (len(text) + 2).to_bytes(2, "big") + text for mark, text in segments)
        image.save(path, quality=95, subsampling=0, dpi=(300, 200), comment="Zürich".encode(), extra=extra, **notes)
    elif path.suffix == ".tif":
        tags = ImageFileDirectory_v2()
        tags[0x010F], tags[700], tags[0x83BB] = "Maker", notes["xmp"], iptc
        tags[0x8769] = {0x9003: "2026:01:02 03:04:05"}
        tags.tagtype[700] = tags.tagtype[0x83BB] = 1
        image.save(path, tiffinfo=tags, dpi=(300, 200), icc_profile=PROFILE)
    elif path.suffix == ".bmp":
        image.save(path, dpi=(300, 200))
    elif path.suffix == ".gif":
        image.save(path, comment=b"Tower")
    else:
        notes |= {"lossless": True} if path.suffix == ".webp" else {}
        image.save(path, quality=100, **notes)


@pytest.mark.parametrize("source", CARRIED)
@pytest.mark.parametrize("result", HELD)
def test_every_note_is_kept_or_named(tmp_path: Path, source: str, result: str) -> None:
    if "avif" in (source, result) and not Image.registered_extensions().get(".avif"):
        pytest.skip("Pillow without AVIF")
    if source == "avif":  # read by other means
        photo = Photo(BLOCKS, profile=PROFILE, exif=camera_exif()[6:], xmp=XMP % 1)
        write_photo(tmp_path / "in.avif", photo)
    else:
        write_source(tmp_path / f"in.{source}")
    photo = read_photo(tmp_path / f"in.{source}")
    frames = open_frames(tmp_path / f"in.{source}")
    assert {name for name in PROPERTIES if getattr(photo, name)} == CARRIED[source]
    losses = write_frames(tmp_path / f"out.{result}", frames, frames)
    found = read_photo(tmp_path / f"out.{result}")
    for name, words in PROPERTIES.items():
        named = any(word in losses.dropped for word in words)
        before, after = getattr(photo, name), getattr(found, name)
        if name in CARRIED[source] & HELD[result]:
            assert not named
            same = after == pytest.approx(before, abs=0.5) if name == "dpi" else after == before
            assert same, (name, before, after)
        elif name == "texts" and before and result in ("jpg", "gif"):
            comment = png.comment_of(before)
            assert png.comment_of(after) == comment
            assert named == (len(before) > 1)
        else:
            assert named == bool(before), name
            assert not after or name == "exif"
    if result == "tif" and "exif" in CARRIED[source]:
        assert texts_of_exif(found.exif) == ({0x010F: "Maker"}, True)
    assert ("IPTC" in losses.lost) == (source in ("jpg", "tif"))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_xmp_says_that_the_picture_is_upright(tmp_path: Path, suffix: str) -> None:
    write_photo(tmp_path / f"a{suffix}", Photo(BLOCKS, xmp=XMP % 6))
    photo = read_photo(tmp_path / f"a{suffix}")
    assert photo.pixels.shape == (48, 64, 3)  # Pillow, and with it others, turn by it
    assert photo.xmp == XMP % 1


def test_gamma_and_chromaticities_of_srgb_are_not_missed(tmp_path: Path) -> None:
    plain = png.Chunk(b"gAMA", (45455).to_bytes(4, "big"))
    linear = png.Chunk(b"gAMA", (100000).to_bytes(4, "big"))
    intent = png.Chunk(b"sRGB", b"\0")
    hdr = png.Chunk(b"cICP", bytes([9, 16, 0, 1]))
    for colour, profile, expected in (
        ((plain, intent), None, ()),
        ((plain,), None, ()),
        ((linear,), None, ("gamma",)),
        ((linear, intent), None, ()),  # the gamma is for programs that do not know sRGB
        ((linear,), PROFILE, ()),
        ((hdr, intent), None, ("colour space",)),
    ):
        assert write_photo(tmp_path / "a.webp", Photo(BLOCKS, profile=profile, colour=colour)) == expected
        write_photo(tmp_path / "a.png", Photo(BLOCKS, colour=colour))
        assert read_photo(tmp_path / "a.png").colour == colour


def test_an_exif_block_in_a_text_is_carried_once(tmp_path: Path) -> None:
    """As ImageMagick writes it: the copy would turn the picture again."""
    block = camera_exif(6)
    text = b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())
    write_photo(tmp_path / "a.png", Photo(BLOCKS, texts=(png.Chunk(b"tEXt", b"Raw profile type exif\0" + text),)))
    photo = read_photo(tmp_path / "a.png")
    assert photo.pixels.shape == (48, 64, 3)
    assert photo.texts == ()
    assert texts_of_exif(photo.exif)[0] == {0x010F: "Maker"}


def test_several_pictures_of_a_camera_are_named(tmp_path: Path) -> None:
    image = Image.fromarray(BLOCKS)
    image.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[image, image])
    frames = open_frames(tmp_path / "a.jpg")
    assert (frames.sort, frames.count) == ("picture", 1)
    losses = write_frames(tmp_path / "a.png", frames, frames)
    assert losses == ((), ("2 further pictures of an MPO file",))


def test_a_note_too_long_for_jpeg_is_named(tmp_path: Path) -> None:
    photo = Photo(BLOCKS, exif=camera_exif()[6:] + bytes(70000), xmp=XMP % 1 + bytes(70000))
    assert write_photo(tmp_path / "a.jpg", photo) == ("EXIF", "XMP")
    assert read_photo(tmp_path / "a.jpg").exif is None


def test_files_without_notes_have_none() -> None:
    assert read_metadata(b"no picture").exif is None
    assert texts_of_exif(None) == ({}, True)
    assert texts_of_exif(b"rubbish") == ({}, False)
