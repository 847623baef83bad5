"""The pages of TIFF files (and of BigTIFF files), without decoding them.

Specification: TIFF 6.0 (Adobe), BigTIFF. A directory describes one page, and says where the next directory is.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from mmap import mmap
from typing import Any, NamedTuple

_MARKS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_SUBFILE, _REDUCED, _MASK = 254, 1, 4  # a tag, and bits of its value
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA = 258, 262, 277, 284, 338  # tags


class Pages(NamedTuple):
    """The directories of a TIFF file.

    Attributes:
        places: of those that are pages of their own; the first directory is, whatever it says.
        others: number of reduced copies and masks.
    """

    places: tuple[int, ...]
    others: int


class Layout(NamedTuple):
    """How the pixels of a page are stored.

    Attributes:
        bits: of each sample.
        samples: of a pixel.
        photometric: 0 grey with white 0, 1 grey, 2 R G B, and others.
        planar: 1 sample by sample, 2 channel by channel.
        extra: what samples beyond the colours are: 0 not told, 1 opacity that colours are multiplied by, 2 opacity.
    """

    bits: int = 1
    samples: int = 1
    photometric: int = -1
    planar: int = 1
    extra: tuple[int, ...] = ()


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
        place = first_place(data)
        while place and place not in seen:
            seen.add(place)
            size, width = (20, 8) if big else (12, 2)
            (entries,) = _unpack(order + ("Q" if big else "H"), data, place)
            end = place + width + size * entries
            if places and sum(_values(data, place, _SUBFILE)) & (_REDUCED | _MASK):
                others += 1
            else:
                places.append(place)
            (place,) = _unpack(order + ("Q" if big else "I"), data, end)
    except struct.error:  # the page is found to be damaged where it is decoded
        pass
    return Pages(tuple(places), others)


def read_layout(data: bytes) -> Layout:
    """How the pixels of the first page are stored; the usual of what is damaged."""
    try:
        place = first_place(data)
        (bits, *_) = _values(data, place, _BITS) or (1,)
        (samples, *_) = _values(data, place, _SAMPLES) or (1,)
        (photometric, *_) = _values(data, place, _PHOTOMETRIC) or (-1,)
        (planar, *_) = _values(data, place, _PLANAR) or (1,)
        return Layout(bits, samples, photometric, planar, _values(data, place, _EXTRA))
    except struct.error:
        return Layout()


def as_first(data: bytes, place: int) -> bytes:
    """A TIFF file whose first page is the one at ``place``: readers that know one page then read this one."""
    order, big = _MARKS[data[:4]]
    if place == first_place(data):
        return data
    changed = bytearray(data)
    struct.pack_into(order + ("Q" if big else "I"), changed, 8 if big else 4, place)
    return bytes(changed)


def first_place(data: bytes | mmap) -> int:
    """Where the first directory is; raises struct.error where the file ends before it says so."""
    order, big = _MARKS[data[:4]]
    return int(_unpack(order + ("Q" if big else "I"), data, 8 if big else 4)[0])


def read_tags(data: bytes | mmap, place: int, wanted: Container[int], most: int = 64) -> dict[int, tuple[int, ...]]:
    """The whole numbers that the directory at ``place`` gives for tags; tags that it lacks are missing.

    Args:
        data: the content of a file.
        place: of the directory.
        wanted: the tags.
        most: numbers of a tag that are read.

    Raises:
        struct.error: the file ends before the directory or its numbers do.
    """
    order, big = _MARKS[data[:4]]
    size, width = (20, 8) if big else (12, 2)
    found: dict[int, tuple[int, ...]] = {}
    (entries,) = _unpack(order + ("Q" if big else "H"), data, place)
    for entry in range(place + width, place + width + size * entries, size):
        tag, kind = _unpack(order + "HH", data, entry)
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if tag in wanted and letter is not None:
            (count,) = _unpack(order + ("Q" if big else "I"), data, entry + 4)
            start, room = (entry + 12, 8) if big else (entry + 8, 4)
            if struct.calcsize(f"{order}{letter}") * count > room:
                (start,) = _unpack(order + ("Q" if big else "I"), data, start)
            found[tag] = _unpack(f"{order}{min(count, most)}{letter}", data, start)
    return found


def _unpack(form: str, data: bytes | mmap, place: int) -> tuple[Any, ...]:
    if place > len(data):  # perhaps by more than struct takes for a place
        raise struct.error("the place lies behind the end of the file")
    return struct.unpack_from(form, data, place)


def _values(data: bytes | mmap, place: int, wanted: int) -> tuple[int, ...]:
    return read_tags(data, place, (wanted,)).get(wanted, ())
