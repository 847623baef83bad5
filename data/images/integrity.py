"""Is the file of an image whole? Answered from its structure, without decoding it."""

from __future__ import annotations

import re
import struct
import zlib

from data.images.png_stream import SIGNATURE

DAMAGE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError,
    AssertionError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow and tifffile raise for a damaged file: they read on until something does not fit."""

# In the compressed part of a JPEG: a marker that is neither a stuffed byte, nor a restart, nor padding.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}


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
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff_damage(data)
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
    if header < 40:
        return None
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression not in (0, 3):  # run lengths: the size is not known beforehand
        return None
    return _short(data, start + (width * bits + 31) // 32 * 4 * abs(height))


def _tiff_damage(data: bytes) -> str | None:
    """The first directory must be there, and the strips or tiles that it points at."""
    order = "<" if data[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, directory)
    values: dict[int, tuple[int, ...]] = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
        if tag in (273, 279, 324, 325) and kind in (3, 4):  # where strips and tiles start, and their lengths
            place = entry + 8
            if _TIFF_SIZES[kind] * number > 4:
                (place,) = struct.unpack_from(order + "I", data, place)
            values[tag] = struct.unpack_from(f"{order}{number}{'H' if kind == 3 else 'I'}", data, place)
    for starts, lengths in ((273, 279), (324, 325)):
        ends = [a + b for a, b in zip(values.get(starts, ()), values.get(lengths, ()), strict=False)]
        if ends and len(data) < max(ends):
            return _short(data, max(ends))
    return None
