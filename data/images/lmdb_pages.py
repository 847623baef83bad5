"""How long the file of an LMDB data set has to be, told from its pages.

LMDB maps the file and trusts it: where pages were cut off, reading an entry ends the process (SIGBUS). The last page
that was ever used, which LMDB tells, does not settle it: pages that became free may never have been written. So where
the file ends before that page, the tree of entries is walked.

Format: LMDB 0.9, of machines with 64 bits and the less significant byte first. A page begins with 16 bytes: its number,
unused 2 bytes, flags, and the ends of its list of nodes and of its free space.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

_HEAD = 16  # bytes of a page in front of its list of nodes
_META = struct.Struct("<16xI4x16x48x4x2xHQQQQQQQ")
"""Magic number; of the tree of entries: depth, three counts of pages, entries, root; last page, transaction."""
_MAGIC = 0xBEEFC0DE
_BRANCH, _LEAF = 1, 2  # flags of a page
_OUTSIDE = 1  # flag of a node: its value is on pages of its own
_NODE = 8  # bytes of a node in front of its key
_NONE = (1 << 64) - 1  # page number of an empty tree
_DEEPEST = 32  # levels of a tree, LMDB's own limit


def needed_bytes(file: BinaryIO, page_size: int) -> int | None:
    """The length up to which entries and the pages that lead to them reach; None: the pages contradict each other.

    Args:
        file: ``data.mdb``; only pages of the tree are read, not those of values.
        page_size: in bytes, as LMDB tells it.
    """
    try:
        metas = [_META.unpack(_read(file, number * page_size, _META.size)) for number in (0, 1)]
        magic, depth, _, _, _, _, root, _, _ = max(metas, key=lambda meta: meta[-1])
        if magic != _MAGIC:
            return None
        if depth > _DEEPEST:
            return None
        return max(2 * page_size, 0 if root == _NONE else _reach(file, page_size, root, depth, set()))
    except (struct.error, EOFError, _TwiceError):
        return None


class _TwiceError(Exception):
    """Two entries lead to the same page, and so there may be no end of them."""


def _reach(file: BinaryIO, page_size: int, number: int, depth: int, seen: set[int]) -> int:
    """The end of a page and of all that it leads to; raises EOFError where the file ends before one of the tree's."""
    if number in seen:
        raise _TwiceError
    seen.add(number)
    page = _read(file, number * page_size, page_size)
    flags, lower = struct.unpack_from("<HH", page, 10)
    places = struct.unpack_from(f"<{max(0, lower - _HEAD) // 2}H", page, _HEAD)
    end = (number + 1) * page_size
    for place in places:
        low, high, kind, key = struct.unpack_from("<HHHH", page, place)
        if flags & _BRANCH and depth > 1:
            end = max(end, _reach(file, page_size, low | high << 16 | kind << 32, depth - 1, seen))
        elif flags & _LEAF and kind & _OUTSIDE:
            (outside,) = struct.unpack_from("<Q", page, place + _NODE + key)
            end = max(end, outside * page_size + _HEAD + (low | high << 16))
    return end


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    if start >= 1 << 62:  # further than files can be asked for
        raise EOFError("no file is as long")
    file.seek(start)
    content = file.read(size)
    if len(content) < size:
        raise EOFError("the file ends before this page does")
    return content
