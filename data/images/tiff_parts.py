"""Do the parts of a TIFF file, its strips or tiles, hold the pixels that its head claims?

What is packed by Deflate ends with a checksum (Adler-32) that decoders do not look at, and has a length: both are
compared. Of other kinds only what can be told without decoding is: whether so few bytes can stand for so many pixels.

Specification: TIFF 6.0 (Adobe) and its technical notes.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

from data.images.tiff import first_place, read_tags

_WIDTH, _HEIGHT, _BITS, _PACKING, _PHOTOMETRIC, _SAMPLES, _ROWS, _PLANAR = 256, 257, 258, 259, 262, 277, 278, 284
_STRIPS, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _SUBSAMPLING = (273, 279), 322, 323, (324, 325), 530
_FILL_ORDER, _TILE_DEPTH = 266, 32998
_TAGS = frozenset(
    (_WIDTH, _HEIGHT, _BITS, _PACKING, _PHOTOMETRIC, _SAMPLES, _ROWS, _PLANAR, *_STRIPS, _TILE_WIDTH, _TILE_HEIGHT,
     *_TILES, _SUBSAMPLING, _FILL_ORDER, _TILE_DEPTH)
)  # fmt: skip
_NONE, _LZW, _OLD_JPEG, _JPEG, _PACKBITS = 1, 5, 6, 7, 32773
_DEFLATE = (8, 32946)
_YCC, _APART = 6, 2
_LONGEST = 4096  # bytes that one code of LZW can stand for
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # with the bits of each byte the other way round
_SLICE, _UNPACKED = 1 << 16, 1 << 20  # bytes that are unpacked at a time, at most to so many


class _Part(NamedTuple):
    """A strip or tile.

    Attributes:
        start: of its bytes.
        size: number of its bytes, None: not told.
        pixels: that it holds.
        least: bytes of these pixels, unpacked.
        most: the same, where the last strip is filled up to the height of the others.
    """

    start: int
    size: int | None
    pixels: int
    least: int
    most: int


def tiff_damage(data: bytes) -> str | None:
    """What is wrong with the first page of a TIFF file; None: nothing, as far as that is known without decoding it.

    Raises:
        struct.error: the file ends before its directory does.
    """
    tags = read_tags(data, first_place(data), _TAGS, len(data))
    width, height, packing = (_first(tags, tag, usual) for tag, usual in ((_WIDTH, 0), (_HEIGHT, 0), (_PACKING, _NONE)))
    claim = f"its head claims {width:,} x {height:,} pixels"
    parts, expected = _parts(tags, width, height)
    # One that is not there is named before those that are there are unpacked.
    needed = max((part.start + (part.size or 0) for part in parts), default=0)
    if len(data) < needed:
        return f"it is cut short ({len(data):,} of {needed:,} bytes)"
    if packing == _OLD_JPEG:  # which has other ways to tell where its parts are
        return None
    if len(parts) < expected or not expected:
        return f"{claim}, but tells the places of only {len(parts):,} of {expected:,} parts"
    for number, part in enumerate(parts, 1):
        size = len(data) - part.start if part.size is None else part.size
        if packing in _DEFLATE:
            packed = memoryview(data)[part.start : part.start + size]
            if _first(tags, _FILL_ORDER, 1) == 2:
                packed = memoryview(bytes(packed).translate(_MIRRORED))
            problem = _deflate_problem(packed, part)
        else:
            problem = None if _may_hold(packing, size, part) else f"has {size:,} bytes, too few for its pixels"
        if problem:
            return f"{claim}, but part {number} of {len(parts)} {problem}"
    return None


def _first(tags: Mapping[int, tuple[int, ...]], tag: int, usual: int) -> int:
    return (tags.get(tag) or (usual,))[0]


def _parts(tags: Mapping[int, tuple[int, ...]], width: int, height: int) -> tuple[list[_Part], int]:
    """The parts whose places are told; how many there have to be, 0 where the tags make no sense."""
    tiled = _TILES[0] in tags
    starts, sizes = (tags.get(tag, ()) for tag in (_TILES if tiled else _STRIPS))
    across = _first(tags, _TILE_WIDTH, 0) if tiled else width
    rows = _first(tags, _TILE_HEIGHT, 0) if tiled else min(_first(tags, _ROWS, height), height)
    planes = _first(tags, _SAMPLES, 1) if _first(tags, _PLANAR, 1) == _APART else 1
    if not width or not height or not across or not rows or not planes:
        return [], 0
    down = -(-height // rows)
    expected = -(-width // across) * down * planes
    full = _bytes_of(tags, across, rows, planes) * (_first(tags, _TILE_DEPTH, 1) if tiled else 1)  # of volumes, a block
    parts = []
    for i, start in enumerate(starts[:expected]):
        last = not tiled and i % down == down - 1
        here = height - rows * (down - 1) if last else rows
        least = _bytes_of(tags, across, here, planes) if last else full
        told = i < len(sizes) and (sizes[i] or expected > 1)  # 0 for the only one is how some programs do not tell it
        parts.append(_Part(start, sizes[i] if told else None, across * here, least, full))
    return parts, expected


def _bytes_of(tags: Mapping[int, tuple[int, ...]], width: int, height: int, planes: int) -> int:
    """Bytes of a part of so many pixels, unpacked."""
    bits = tags.get(_BITS) or (1,)
    samples = 1 if planes > 1 else _first(tags, _SAMPLES, 1)
    if _first(tags, _PHOTOMETRIC, -1) == _YCC and samples == 3 and _first(tags, _PACKING, _NONE) != _JPEG:
        # Colours of several pixels are stored once, behind the luminances.
        across, down = (*tags.get(_SUBSAMPLING, ()), 2, 2)[:2] if len(tags.get(_SUBSAMPLING, ())) != 1 else (2, 2)
        if across and down:
            return -(-width // across) * -(-height // down) * (across * down + 2) * (bits[0] // 8)
    of_pixel = sum(bits) if len(bits) == samples else bits[0] * samples
    return -(-width * of_pixel // 8) * height


def _may_hold(packing: int, size: int, part: _Part) -> bool:
    """Whether so many bytes can stand for the pixels of a part."""
    if packing == _NONE:
        return size >= part.least
    if packing == _LZW:  # codes of 9 bits and more, each of which stands for at most one byte more than those before it
        codes = size * 8 // 9
        return part.least <= codes * min(codes, _LONGEST)
    if packing == _PACKBITS:  # two bytes for 128
        return part.least <= 64 * size
    if packing == _JPEG:  # a bit for 8 x 8 pixels
        return part.pixels <= 512 * size
    return True  # of lines of a fax, for one, a whole page of white takes some bytes


def _deflate_problem(packed: memoryview, part: _Part) -> str | None:
    """What is wrong with a part, which is unpacked piece by piece and thrown away."""
    unpack = zlib.decompressobj()
    count = 0
    try:
        for start in range(0, len(packed), _SLICE):
            piece: bytes | memoryview = packed[start : start + _SLICE]
            while len(piece) and not unpack.eof:
                count += len(unpack.decompress(piece, _UNPACKED))
                if count > part.most:
                    return "holds more bytes than its pixels have"
                piece = unpack.unconsumed_tail
            if unpack.eof:
                break
    except zlib.error as error:
        return f"is damaged ({error})"
    if not unpack.eof:
        return "has no end"
    if count not in (part.least, part.most):
        return f"holds {count:,} of {part.least:,} bytes"
    return None
