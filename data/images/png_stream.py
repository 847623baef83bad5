"""PNG files written as they are compressed: a large picture is nowhere copied as a whole.

Specification: PNG, third edition (W3C).

Shapes: H W pixels, C channels, n bytes of a row.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""What every PNG file begins with."""
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # grey, grey and opacity, R G B, R G B and opacity
_BAND = 1 << 19  # bytes of pixels that are filtered at a time, about
_PART = 1 << 20  # compressed bytes of one chunk, at least
_PAETH = 4


def write_png(
    file: BinaryIO, planes: Sequence[NDArray[Any]], added: bytes = b"", compression: int | None = None
) -> None:
    """Write a picture as a PNG file.

    Args:
        file: where to write.
        planes: uint8 or uint16 arrays [H, W, C] of one type whose channels follow each other: grey or R G B, and
            perhaps opacity.
        added: chunks for behind the head, as :func:`packed_chunk` makes them.
        compression: 0 .. 9, larger is smaller and slower; None: runs of equal bytes alone, the fastest, which after
            the filter is smaller than level 3 on photographs.
    """
    height, width = planes[0].shape[:2]
    channels = sum(plane.shape[2] for plane in planes)
    size = planes[0].itemsize
    file.write(SIGNATURE)
    file.write(packed_chunk(b"IHDR", struct.pack(">IIBB3x", width, height, 8 * size, _COLOUR_TYPES[channels])))
    file.write(added)
    strategy = zlib.Z_RLE if compression is None else zlib.Z_DEFAULT_STRATEGY
    packer = zlib.compressobj(1 if compression is None else compression, zlib.DEFLATED, 15, 9, strategy)
    above = np.zeros(width * channels * size, np.uint8)
    step = max(1, _BAND // max(1, above.size))
    part = bytearray()
    for top in range(0, height, step):
        rows = _bytes_of([plane[top : top + step] for plane in planes])  # [rows, n]
        part += packer.compress(_filtered(rows, above, channels * size).data)
        above = rows[-1]
        if len(part) >= _PART:
            file.write(packed_chunk(b"IDAT", part))
            part.clear()
    part += packer.flush()
    file.write(packed_chunk(b"IDAT", part))
    file.write(packed_chunk(b"IEND", b""))


def packed_chunk(kind: bytes, content: bytes | bytearray) -> bytes:
    """A part of a PNG file, with its length and checksum."""
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)))


def _bytes_of(planes: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """[H, W, C] each -> [H, n], the more significant byte of two first."""
    pixels = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
    ordered = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">"))
    return ordered.view(np.uint8).reshape(len(ordered), -1)


def _filtered(rows: NDArray[np.uint8], above: NDArray[np.uint8], distance: int) -> NDArray[np.uint8]:
    """Every byte less the nearest of its three neighbours to their plane (Paeth's filter), behind the filter's number.

    Args:
        rows: [H, n].
        above: [n], the row in front of them.
        distance: bytes from one pixel to the next.
    """
    framed = np.zeros((len(rows) + 1, distance + rows.shape[1]), np.int16)
    framed[0, distance:] = above
    framed[1:, distance:] = rows
    left, up, corner = framed[1:, :-distance], framed[:-1, distance:], framed[:-1, :-distance]
    to_left, to_up = up - corner, left - corner
    to_corner = np.abs(to_left + to_up)
    to_left, to_up = np.abs(to_left), np.abs(to_up)
    nearest = np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))
    filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _PAETH
    filtered[:, 1:] = framed[1:, distance:] - nearest  # modulo 256
    return filtered
