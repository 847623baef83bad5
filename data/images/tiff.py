"""The pages of TIFF files (and of BigTIFF files), without decoding them.

Specification: TIFF 6.0 (Adobe), BigTIFF. A directory describes one page, and says where the next directory is.
"""

from __future__ import annotations

import struct
from mmap import mmap
from typing import NamedTuple

_MARKS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_SUBFILE, _REDUCED, _MASK = 254, 1, 4  # a tag, and bits of its value


class Pages(NamedTuple):
    """The directories of a TIFF file.

    Attributes:
        places: of those that are pages of their own; the first directory is, whatever it says.
        others: number of reduced copies and masks.
    """

    places: tuple[int, ...]
    others: int


def is_tiff(data: bytes | mmap) -> bool:
    """Whether the bytes begin as a TIFF file does."""
    return data[:4] in _MARKS


def find_pages(data: bytes | mmap) -> Pages:
    """The pages of a TIFF file; those behind a damaged directory are not found."""
    order, big = _MARKS[data[:4]]
    places: list[int] = []
    seen: set[int] = set()
    others = 0
    try:
        place = _first(data)
        while place and place not in seen:
            seen.add(place)
            size, width = (20, 8) if big else (12, 2)
            (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
            end = place + width + size * entries
            if places and _kind(data, place + width, end, size, order) & (_REDUCED | _MASK):
                others += 1
            else:
                places.append(place)
            (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, end)
    except struct.error:  # the page is found to be damaged where it is decoded
        pass
    return Pages(tuple(places), others)


def as_first(data: bytes, place: int) -> bytes:
    """A TIFF file whose first page is the one at ``place``: readers that know one page then read this one."""
    order, big = _MARKS[data[:4]]
    if place == _first(data):
        return data
    changed = bytearray(data)
    struct.pack_into(order + ("Q" if big else "I"), changed, 8 if big else 4, place)
    return bytes(changed)


def _first(data: bytes | mmap) -> int:
    order, big = _MARKS[data[:4]]
    return int(struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0])


def _kind(data: bytes | mmap, start: int, end: int, size: int, order: str) -> int:
    """The value of the tag that tells reduced copies from pages."""
    for entry in range(start, end, size):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag == _SUBFILE:
            value = entry + (12 if size == 20 else 8)
            return int(struct.unpack_from(order + ("H" if kind == 3 else "I"), data, value)[0])
    return 0
