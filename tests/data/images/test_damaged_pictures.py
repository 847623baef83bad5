"""A fuzzer with fixed seeds: 216 damaged pictures of all kinds are refused by name, or read as their heads claim.

Where a kind has checksums, what is read is what was written. Nothing takes long, fills the memory or ends the process.
"""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from data.images.files import Pixels, decode_image
from data.images.frames import open_frames
from data.images.head import head_size
from data.images.integrity import damage
from data.images.tiff import first_place
from data.images.tiff_parts import tiff_damage
from tests.data.pictures import noise
from utils.errors import InputError

resource = pytest.importorskip("resource")

HEIGHT, WIDTH = 61, 97
PICTURE: Pixels = cv2.resize(noise(8, 13), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
EACH = 9  # damaged files of a kind: three flips, three cuts, three overwritten pieces
SECONDS, BYTES = 10, 1 << 30


def by_pillow(kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, kind, **how)
    return file.getvalue()


def by_tifffile(**how: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, PICTURE, photometric="rgb", **how)
    return file.getvalue()


def by_opencv(suffix: str) -> bytes:
    return cv2.imencode(suffix, PICTURE[..., ::-1])[1].tobytes()


FILES = {
    "filtered.png": by_pillow("PNG"),
    "opencv.png": by_opencv(".png"),
    "a.jpg": by_pillow("JPEG"),
    "progressive.jpg": by_pillow("JPEG", progressive=True),
    "a.bmp": by_pillow("BMP"),
    "lossy.webp": by_pillow("WEBP"),
    "lossless.webp": by_pillow("WEBP", lossless=True),
    "a.gif": by_pillow("GIF"),
    "a.ppm": by_pillow("PPM"),
    "a.jp2": by_pillow("JPEG2000"),
    "tiles.jp2": by_pillow("JPEG2000", tile_size=(32, 32)),
    "a.tga": by_pillow("TGA"),
    "a.pcx": by_pillow("PCX"),
    "a.sgi": by_pillow("SGI"),
    "a.ras": by_opencv(".ras"),
    "raw.tif": by_pillow("TIFF"),
    "lzw.tif": by_pillow("TIFF", compression="tiff_lzw"),
    "lzw, predicted.tif": by_pillow("TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
    "packbits.tif": by_pillow("TIFF", compression="packbits"),
    "jpeg.tif": by_pillow("TIFF", compression="jpeg"),
    "deflate.tif": by_pillow("TIFF", compression="tiff_adobe_deflate"),
    "deflate, predicted.tif": by_tifffile(compression="zlib", predictor=2, rowsperstrip=20),
    "deflate, tiles.tif": by_tifffile(compression="zlib", tile=(32, 32)),
    "deflate, big.tif": by_tifffile(compression="zlib", bigtiff=True, byteorder=">", rowsperstrip=10),
}
CHECKED = [name for name in FILES if name.endswith(".png") or name.startswith("deflate")]


def damaged(data: bytes, number: int, rng: np.random.Generator) -> bytes:
    """A copy with a bit flipped, or cut, or with a piece of it overwritten, mostly of its head."""
    broken = bytearray(data)
    if number % 3 == 0:
        broken[rng.integers(len(broken))] ^= 1 << int(rng.integers(8))
    elif number % 3 == 1:
        del broken[rng.integers(len(broken)) :]
    else:
        start = int(rng.integers(80 if number % 2 else len(broken) - 8))
        broken[start : start + 8] = rng.bytes(8)
    return bytes(broken)


def read(data: bytes, name: str) -> Pixels | None:
    """The pixels, in bounded time and memory; None where they are refused by name."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        return decode_image(data, name)
    except InputError as error:
        assert str(error).startswith(f"{name}: ")
        return None
    finally:
        assert time.process_time() - started < SECONDS
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < BYTES


@pytest.mark.parametrize("name", FILES)
def test_damaged_pictures_are_refused_or_have_the_size_that_they_claim(name: str, tmp_path: Path) -> None:
    data = FILES[name]
    whole = read(data, name)
    assert whole is not None
    rng = np.random.default_rng(sum(name.encode()))
    for number in range(EACH):
        broken = damaged(data, number, rng)
        pixels = read(broken, name)
        if pixels is None:
            continue
        claimed = head_size(broken)
        assert claimed is None or pixels.shape[:2] == claimed or name.endswith(".gif"), number
        assert name not in CHECKED or number % 3 == 2 or np.array_equal(pixels, whole), number
        (tmp_path / name).write_bytes(broken)
        try:  # what upscaling reads, with metadata, pages and frames
            for photo in open_frames(tmp_path / name):
                assert photo.pixels.ndim == 3
        except InputError as error:
            assert name in str(error)


@pytest.mark.parametrize("name", [name for name in CHECKED if name.endswith(".tif")])
def test_no_flip_in_the_pixels_of_a_deflated_tiff_goes_unseen(name: str) -> None:
    data = FILES[name]
    assert damage(data) is None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        places = [
            place
            for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            for place in range(start, start + count)
        ]
    rng = np.random.default_rng(0)
    for place in rng.choice(places, 60, replace=False):
        broken = bytearray(data)
        broken[place] ^= 1 << int(rng.integers(8))
        pixels = read(bytes(broken), name)
        assert pixels is None or np.array_equal(pixels, PICTURE)  # a bit of the packing that nothing depends on


def test_a_damaged_file_that_only_tifffile_reads(tmp_path: Path) -> None:
    pytest.importorskip("lzma")
    path = tmp_path / "deep, channels apart.tif"
    deep = PICTURE.transpose(2, 0, 1).astype(np.uint16) * 257
    tifffile.imwrite(path, deep, photometric="rgb", planarconfig="separate", compression="lzma")
    (photo,) = open_frames(path)
    assert np.array_equal(photo.pixels, deep.transpose(1, 2, 0))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"apart\.tif: the image cannot be read"):
        list(open_frames(path))


def png_head(data: bytearray, width: int, height: int) -> None:
    struct.pack_into(">II", data, 16, width, height)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))


def jpeg_head(data: bytearray, width: int, height: int) -> None:
    struct.pack_into(">HH", data, max(data.find(b"\xff\xc0\0\x11"), data.find(b"\xff\xc2\0\x11")) + 5, height, width)


def tiff_head(data: bytearray, width: int, height: int) -> None:
    order, big = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    place = first_place(bytes(data))
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
    width_of, size = (8, 20) if big else (2, 12)
    for entry in range(place + width_of, place + width_of + size * count, size):
        (tag,) = struct.unpack_from(order + "H", data, entry)
        if tag in (256, 257, 278):  # width, height, rows of a strip
            struct.pack_into(order + "HH", data, entry, tag, 4)
            struct.pack_into(order + "I", data, entry + (12 if big else 8), width if tag == 256 else height)


def jpeg2000_head(data: bytearray, width: int, height: int) -> None:
    struct.pack_into(">II", data, data.find(b"ihdr") + 4, height, width)
    struct.pack_into(">II", data, data.find(b"\xff\x51") + 6, width, height)


def at(form: str, place: int) -> Callable[[bytearray, int, int], None]:
    return lambda data, width, height: struct.pack_into(form, data, place, width, height)


def head_of(name: str) -> Callable[[bytearray, int, int], None]:
    """Overwrites the size that a file claims."""
    kinds = {
        ".png": png_head, ".jpg": jpeg_head, ".tif": tiff_head, ".jp2": jpeg2000_head, ".bmp": at("<ii", 18),
        ".gif": at("<HH", 6), ".tga": at("<HH", 12), ".sgi": at(">HH", 6), ".ras": at(">II", 4),
    }  # fmt: skip
    return kinds[Path(name).suffix]


@pytest.mark.parametrize("name", [name for name in FILES if Path(name).suffix not in (".webp", ".ppm", ".pcx")])
@pytest.mark.parametrize(("width", "height"), [(38_448, 6_900), (16_000, 16_000), (65_535, 65_535)])
def test_a_claim_of_more_than_the_file_can_hold_is_refused_before_decoding(name: str, width: int, height: int) -> None:
    data = bytearray(FILES[name])
    head_of(name)(data, width, height)
    assert bytes(data) != FILES[name]
    assert read(bytes(data), name) is None


def test_a_portable_pixmap_of_more_pixels_than_bytes_is_refused() -> None:
    for data in (b"P6\n16000 16000\n255\n" + bytes(99), b"P4\n9999 9999\n" + bytes(99), b"P3 9999 9999 255\n1 1 1"):
        assert read(data, "a.ppm") is None
    pam = b"P7\nWIDTH 16000\nHEIGHT 16000\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n"
    assert head_size(pam) == (16000, 16000)
    assert read(pam + bytes(99), "a.pam") is None


def test_the_head_of_a_portable_pixmap_is_read_in_a_moment() -> None:
    """However many spaces, comments and digits it has: some are a way to hang a reader."""
    assert head_size(b"P6 \t\r\n" + b" " * 200 + b"#a\n#b\n 12 # c\n\n34\n255\n") == (34, 12)
    for data in (b"P6" + b" " * 99 + b"x", b"P6 1" + b"\n" * 99 + b"x", b"P6 " + b"9" * 5000 + b" 1 255\n"):
        assert read(data, "a.ppm") is None
    assert read(b"P7\nWIDTH " + b"9" * 5000 + b"\nHEIGHT 9\nDEPTH 1\nMAXVAL 1\nENDHDR\n", "a.pam") is None


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A copy of a TIFF file (of its usual form) whose first directory, now at its end, has this entry too."""
    place = first_place(data)
    (count,) = struct.unpack_from("<H", data, place)
    entries = [data[at : at + 12] for at in range(place + 2, place + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if struct.unpack_from("<H", entry)[0] != tag]
    changed = sorted([*kept, struct.pack("<HHII", tag, 4, 1, value)], key=lambda entry: struct.unpack_from("<H", entry))
    end = len(data) + len(data) % 2
    directory = struct.pack("<H", len(changed)) + b"".join(changed) + bytes(4)
    return data[:4] + struct.pack("<I", end) + data[8:].ljust(end - 8, b"\0") + directory


def test_odd_files_that_are_whole_are_read() -> None:
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    packed = by_tifffile(compression="zlib")
    with tifffile.TiffFile(io.BytesIO(packed)) as file:
        start, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    turned = packed[:start] + packed[start : start + size].translate(mirrored) + packed[start + size :]
    assert np.array_equal(decode_image(with_tag(turned, 266, 2), "bits the other way round.tif"), PICTURE)
    damaged_part = bytearray(turned)
    damaged_part[start + size // 2] ^= 16
    with pytest.raises(InputError, match="part 1 of 1 is damaged"):
        decode_image(with_tag(bytes(damaged_part), 266, 2), "a.tif")

    assert np.array_equal(decode_image(with_tag(FILES["raw.tif"], 279, 0), "size not told.tif"), PICTURE)

    volume = io.BytesIO()
    grey = np.stack([PICTURE[:48, :96, 0]] * 16)
    tifffile.imwrite(volume, grey, volumetric=True, tile=(16, 16, 32), compression="zlib", photometric="minisblack")
    assert np.array_equal(decode_image(volume.getvalue(), "volume.tif")[..., 0], grey[0])

    canvas = bytearray(FILES["a.gif"])
    struct.pack_into("<HH", canvas, 6, 1500, 1000)
    assert decode_image(bytes(canvas), "small frame.gif").shape == (1000, 1500, 3)


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        (256, WIDTH - 1, "holds more bytes than its pixels have"),
        (257, HEIGHT + 1, r"holds 17,751 of 18,042 bytes"),
        (257, 0, "tells the places of only 0 of 0 parts"),
        (278, 7, "tells the places of only 1 of 9 parts"),
        (277, 4, "holds 17,751 of 23,668 bytes"),
    ],
)
def test_tags_and_pixels_of_a_tiff_file_have_to_agree(tag: int, value: int, said: str) -> None:
    data = bytearray(by_tifffile(compression="zlib"))
    place = first_place(bytes(data)) + 2
    entry = next(at for at in range(place, place + 12 * 20, 12) if struct.unpack_from("<H", data, at)[0] == tag)
    struct.pack_into("<HII", data, entry + 2, 4, 1, value)
    if tag == 257 and value > HEIGHT:  # the strip as well
        tiff_head(data, WIDTH, value)
    with pytest.raises(InputError, match=f"a.tif: the image cannot be read: its head claims .*{said}"):
        decode_image(bytes(data), "a.tif")


def test_the_checks_of_tiff_files_know_parts_of_all_forms() -> None:
    """Sub-sampled colours, 1 bit, 16 bits, channels apart, a last strip that is filled up, tiles beyond the edge."""
    grey = PICTURE[..., 0]
    files = [by_tifffile(compression="zlib", tile=(16, 48), bigtiff=big) for big in (False, True)]
    for pixels, how in (
        (PICTURE.transpose(2, 0, 1).copy(), {"planarconfig": "separate", "photometric": "rgb", "rowsperstrip": 17}),
        (PICTURE.astype(np.uint16) * 257, {"photometric": "rgb", "rowsperstrip": 17}),
        (grey > 99, {"photometric": "minisblack"}),
        (grey.astype(np.float32), {"photometric": "minisblack"}),
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, compression="zlib", **how)
        files.append(file.getvalue())
    for mode in ("L", "1", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"):
        file = io.BytesIO()
        image = Image.fromarray(grey.astype(np.uint16)) if mode == "I;16" else None
        if mode == "LAB":
            image = Image.new("LAB", (9, 7))
        image = image or Image.fromarray(PICTURE).convert(mode)
        for packing in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            file = io.BytesIO()
            image.save(file, "TIFF", compression=packing)
            files.append(file.getvalue())
    assert [tiff_damage(data) for data in files] == [None] * len(files)
