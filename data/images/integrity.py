"""Is the file of an image whole? Answered from its structure and its checksums, without decoding it."""

from __future__ import annotations

import re
import struct
import zlib

from data.images.png_stream import SIGNATURE
from data.images.tiff import is_tiff
from data.images.tiff_parts import tiff_damage

try:  # not every Python has it
    from lzma import LZMAError
except ImportError:
    LZMAError = zlib.error  # type: ignore[misc,assignment]

DAMAGE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError,
    AssertionError, struct.error, zlib.error, LZMAError,
)  # fmt: skip
"""What Pillow and tifffile raise for a damaged file: they read on until something does not fit."""

# In the compressed part of a JPEG: a marker that is neither a stuffed byte, nor a restart, nor padding.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


def damage(data: bytes) -> str | None:
    """What is wrong with the bytes of an image file, or None if it looks whole (or is of an unknown kind)."""
    if not data:
        return "the file is empty"
    if data[:200].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page"
    if data.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, whose content comes by: git lfs pull"
    try:
        if data.startswith(SIGNATURE):
            return _png_damage(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg_damage(data)
        if data.startswith(b"BM"):
            return _short(data, struct.unpack_from("<I", data, 2)[0]) or _bmp_damage(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _short(data, 8 + struct.unpack_from("<I", data, 4)[0])
        if is_tiff(data):
            return tiff_damage(data)
    except struct.error:
        return f"it is cut short (only {len(data):,} bytes)"
    return None


def png_size(head: bytes) -> tuple[int, int] | None:
    """(height, width) from the first 24 bytes of a PNG file; None for other files."""
    if len(head) < 24 or not head.startswith(SIGNATURE) or head[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return height, width


def _short(data: bytes, expected: int) -> str | None:
    if len(data) < expected:
        return f"it is cut short ({len(data):,} of {expected:,} bytes)"
    return None


def _png_damage(data: bytes) -> str | None:
    """Every chunk must be there with its checksum, up to the one that ends the image."""
    position = len(SIGNATURE)
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if len(data) < end:
            break
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(data[position + 4 : end - 4]) != checksum:
            return f"its content is damaged (checksum of a part at byte {position:,})"
        if kind == b"IEND":
            return None
        position = end
    return f"it is cut short (no end mark in {len(data):,} bytes)"


def _jpeg_damage(data: bytes) -> str | None:
    """Segments are walked by their lengths, so that the end mark of an embedded preview does not count."""
    position = 2
    while True:
        found = _JPEG_MARKER.search(data, position)
        if not found:
            return f"it is cut short (no end mark in {len(data):,} bytes)"
        marker = data[found.start() + 1]
        if marker == 0xD9:
            return None
        position = found.end()
        if marker not in (0x01, 0xD8):  # all others carry a length; after SOS the search runs through the scan
            position += struct.unpack_from(">H", data, position)[0]


def _bmp_damage(data: bytes) -> str | None:
    start, header = struct.unpack_from("<II", data, 10)
    compression = 0
    if header == 12:  # of OS/2
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    elif header >= 40:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        return None
    if compression not in (0, 3):  # run lengths: the size is not known beforehand
        return None
    return _short(data, start + (width * bits + 31) // 32 * 4 * abs(height))
