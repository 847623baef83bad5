"""The size of an image from the head of its file, and the limits that are held against it before anything is decoded.

A file of a few kilobytes can unpack to gigabytes, by mistake or on purpose; a damaged head can claim as much.
"""

from __future__ import annotations

import io
import os
import re
import struct

from data.images.integrity import DAMAGE_ERRORS, png_size
from data.images.pillow import patient_pillow
from data.images.tiff import first_place, is_tiff, read_tags
from utils.errors import InputError

MAX_PIXELS = 1 << 28
"""Pixels of the largest image that is decoded without being asked for: 16,384 x 16,384."""

_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
_WIDTH, _HEIGHT = 256, 257  # tags of TIFF files

# The most pixels that a byte can stand for, by the first bytes of a file. Of others there is no such number (a picture
# of one colour costs WebP, JPEG 2000 and AVIF next to nothing), or it is told with more: PNG, TIFF, PNM.
_DENSEST = (
    (b"\xff\xd8", 512),  # a bit for 8 x 8 pixels
    (b"BM", 1024),  # run lengths; of others the size is known to the byte
    (b"GIF8", 4096),  # a code of LZW
    (b"\x59\xa6\x6a\x95", 1024),  # Sun raster: 256 bytes of 8 pixels in three bytes
    (b"qoif", 62),
)
_CANVAS = 1 << 22  # pixels of a GIF file that may be left empty: its frames can be smaller
_TILE = 14  # bytes of a tile of JPEG 2000, at least
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the kind of colour
_DEFLATE = 1032  # the most bytes that a byte can be unpacked to
# Spaces one by one: of a run that can be split in many ways, all would be tried. Few digits: int() refuses many.
_PNM = re.compile(rb"P([1-6])(?:\s|#[^\n]*\n)+(\d{1,10})(?:\s|#[^\n]*\n)+(\d{1,10})(?!\d)")
_PAM = re.compile(rb"P7\n(?:[^\n]*\n){0,99}?ENDHDR\n")
_PAM_FIELD = re.compile(rb"^(WIDTH|HEIGHT|DEPTH|MAXVAL)[ \t]+(\d{1,10})\s*$", re.MULTILINE)


def check_pixels(data: bytes, name: str, most: int | None = None) -> None:
    """Whether an image may be decoded.

    Args:
        data: the content of a file, of which the head is read.
        name: says in messages where it came from.
        most: pixels that are allowed, as ``--max_pixels`` says; None: what the environment variable
            OPENCV_IO_MAX_IMAGE_PIXELS says, which is OpenCV's own, or else :data:`MAX_PIXELS`.

    Raises:
        InputError: it has more pixels, or claims more than a file of its kind and length can hold.
    """
    size = head_size(data)
    limit = max_pixels() if most is None else most
    if size is not None and size[0] * size[1] > limit:
        option = f"the environment variable {_VARIABLE}" if most is None else "--max_pixels"
        raise InputError(
            f"{name}: it has {size[1]:,} x {size[0]:,} pixels, and no more than {limit:,} are decoded; if it is an "
            f"image to be trusted, {option} raises the limit"
        )
    if size is not None and not _can_hold(data, *size):
        raise InputError(
            f"{name}: the image cannot be read: its head claims {size[1]:,} x {size[0]:,} pixels, more than a file of "
            f"{len(data):,} bytes can hold; copy it again or remove it"
        )


def max_pixels() -> int:
    """Pixels that an image may have, as the environment says."""
    text = os.environ.get(_VARIABLE, "")
    return int(text) if text.isdecimal() else MAX_PIXELS


def head_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) as they are stored; None where the head does not tell, or is damaged.

    PNG, JPEG, BMP, GIF, WebP and TIFF are looked at here, in microseconds; Pillow knows others.
    """
    try:
        if data.startswith(b"\x89PNG"):
            return png_size(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg_size(data)
        if data.startswith(b"BM"):
            width, height = struct.unpack_from("<HH" if data[14:18] == b"\x0c\0\0\0" else "<ii", data, 18)
            return abs(height), abs(width)
        if data.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack_from("<HH", data, 6)
            return height, width
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp_size(data)
        if is_tiff(data):
            return _tiff_size(data)
        if data[:1] == b"P" and data[1:2].isdigit():
            return _pnm_size(data)
    except struct.error:
        return None
    return _size_by_pillow(data)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1 : position + 2]
        if marker == b"\xff":  # padding
            position += 1
        elif b"\xc0" <= marker <= b"\xcf" and marker not in (b"\xc4", b"\xc8", b"\xcc"):
            height, width = struct.unpack_from(">HH", data, position + 5)
            return height, width
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[start : start + 3], "little") for start in (24, 27))
        return height + 1, width + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return height & 0x3FFF, width & 0x3FFF


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """Of the first picture."""
    tags = read_tags(data, first_place(data), (_WIDTH, _HEIGHT))
    return (tags[_HEIGHT][0], tags[_WIDTH][0]) if len(tags) == 2 and all(tags.values()) else None


def _pnm_size(data: bytes) -> tuple[int, int] | None:
    if found := _PNM.match(data):
        return int(found[3]), int(found[2])
    fields = _pam_fields(data)
    return (fields["HEIGHT"], fields["WIDTH"]) if {"HEIGHT", "WIDTH"} <= fields.keys() else None


def _pam_fields(data: bytes) -> dict[str, int]:
    head = _PAM.match(data)
    return {} if head is None else {name.decode(): int(value) for name, value in _PAM_FIELD.findall(head[0])}


def _can_hold(data: bytes, height: int, width: int) -> bool:
    """Whether the bytes of a file may stand for so many pixels; TIFF files are looked at part by part elsewhere."""
    if data.startswith(b"\x89PNG") and len(data) > 25:
        bits = data[24] * _PNG_SAMPLES.get(data[25], 1)
        return height * (1 + width * bits // 8) <= _DEFLATE * len(data)
    if found := _PNM.match(data):
        # In P1 .. P3 a digit and mostly a space, in P4 a bit, in P5 and P6 a byte or two for each sample.
        samples = height * width * (3 if found[1] in b"36" else 1)
        return samples <= 8 * len(data) if found[1] == b"4" else samples <= len(data)
    if data.startswith(b"P7"):
        fields = _pam_fields(data)
        return height * width * fields.get("DEPTH", 1) * (1 + (fields.get("MAXVAL", 1) > 255)) <= len(data)
    # JPEG 2000; of other files nothing is searched for.
    siz = data.find(b"\xff\x4f\xff\x51") if data[:4] in (b"\0\0\0\x0c", b"\xff\x4f\xff\x51") else -1
    if siz >= 0 and len(data) >= siz + 40:
        x1, y1, _, _, across, down, x0, y0 = struct.unpack_from(">8I", data, siz + 8)
        tiles = -(-(x1 - x0) // max(across, 1)) * -(-(y1 - y0) // max(down, 1))
        return bool(tiles * _TILE <= len(data))
    densest = next((most for start, most in _DENSEST if data.startswith(start)), None)
    empty = _CANVAS if data.startswith(b"GIF8") else 0
    return densest is None or height * width <= densest * len(data) + empty


def _size_by_pillow(data: bytes) -> tuple[int, int] | None:
    from PIL import Image

    try:
        with patient_pillow(), Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except DAMAGE_ERRORS:
        return None
