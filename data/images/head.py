"""The size of an image from the head of its file, and the limit that is held against it before anything is decoded.

A file of a few kilobytes can unpack to gigabytes, by mistake or on purpose.
"""

from __future__ import annotations

import io
import os
import struct

from data.images.integrity import DAMAGE_ERRORS, png_size
from data.images.pillow import patient_pillow
from utils.errors import InputError

MAX_PIXELS = 1 << 28
"""Pixels of the largest image that is decoded without being asked for: 16,384 x 16,384."""

_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
_WIDTH, _HEIGHT = 256, 257  # tags of TIFF files


def check_pixels(data: bytes, name: str, most: int | None = None) -> None:
    """Whether an image may be decoded.

    Args:
        data: the content of a file, of which the head is read.
        name: says in messages where it came from.
        most: pixels that are allowed, as ``--max_pixels`` says; None: what the environment variable
            OPENCV_IO_MAX_IMAGE_PIXELS says, which is OpenCV's own, or else :data:`MAX_PIXELS`.

    Raises:
        InputError: it has more pixels.
    """
    size = head_size(data)
    limit = max_pixels() if most is None else most
    if size is not None and size[0] * size[1] > limit:
        option = f"the environment variable {_VARIABLE}" if most is None else "--max_pixels"
        raise InputError(
            f"{name}: it has {size[1]:,} x {size[0]:,} pixels, and no more than {limit:,} are decoded; if it is an "
            f"image to be trusted, {option} raises the limit"
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
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff_size(data)
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
    order = "<" if data[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, directory)
    sides: dict[int, int] = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (_WIDTH, _HEIGHT):
            (sides[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
    return (sides[_HEIGHT], sides[_WIDTH]) if len(sides) == 2 else None


def _size_by_pillow(data: bytes) -> tuple[int, int] | None:
    from PIL import Image

    try:
        with patient_pillow(), Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except DAMAGE_ERRORS:
        return None
