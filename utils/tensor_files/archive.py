"""The zip archive that torch writes: its members, and whether every byte that decides about them is right.

torch looks at no checksum when it reads. Here the data of each member is compared with the CRC-32 that the archive
holds of it, and what stands around the data (names, sizes, offsets) is looked through as far as torch's own reader
relies on it. The seal in files of FocalSR is in :mod:`utils.tensor_files.sums`.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

Read = Callable[[int, int], bytes]
"""The bytes of a file: (offset, count) -> as many as there are, up to count."""

BLOCK = 1 << 20
"""Bytes that are read at a time."""

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL = {16: 0xFFFF, 32: 0xFFFFFFFF}  # what a field holds whose value is in the 64-bit one
_LONGEST_COMMENT = 0xFFFF
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
_IS_FOLDER = 0x10  # of the attributes: torch's reader leaves the memory of such a member as it is


class DamagedError(ValueError):
    """A file is damaged; the message goes on after "the file is damaged: "."""


class CutOffError(DamagedError):
    """The end of an archive, which tells where its directory is, is missing."""


class Member(NamedTuple):
    """A file in the archive, as the directory describes it.

    Attributes:
        name: with its folder.
        offset: of its local header.
        stored: bytes that its data takes in the archive.
        size: bytes of its data.
        method: how it is compressed.
        crc: CRC-32 of its data.
        encrypted: whether it claims to be.
        folder: whether it claims to be one.
    """

    name: bytes
    offset: int
    stored: int
    size: int
    method: int
    crc: int
    encrypted: bool
    folder: bool


@dataclass(frozen=True)
class Archive:
    """The directory of an archive.

    Attributes:
        members: in the order of the file.
        directory: offset of the directory; the members end before it.
        comment: what follows its end.
        complete: whether that is as long as the end says.
    """

    members: tuple[Member, ...]
    directory: int
    comment: bytes
    complete: bool

    @property
    def names(self) -> list[str]:
        """Of the members."""
        return [member.name.decode(errors="replace") for member in self.members]

    @property
    def pickled(self) -> list[Member]:
        """What torch unpickles; the data of the others fills tensors."""
        return [member for member in self.members if member.name.endswith(b"data.pkl")]


def reader(file: BinaryIO) -> Read:
    """The bytes of an open file; where the system allows it, its position is neither used nor moved."""
    if hasattr(os, "pread"):
        return lambda offset, count: os.pread(file.fileno(), count, offset)

    def read(offset: int, count: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    return read


def read_directory(read: Read, size: int) -> Archive:
    """The directory of an archive.

    Args:
        read: the file.
        size: its bytes.

    Raises:
        DamagedError: there is none, or it is not one that a program has written.
    """
    begin = max(size - _END.size - _LONGEST_COMMENT, 0)
    tail = read(begin, size - begin)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise CutOffError("its end is missing")
    _, _, _, _, count, length, offset, comment = _END.unpack_from(tail, at)
    end, wide = begin + at, _wide_end(read, begin + at)
    if wide is not None:
        end, count, length, offset = wide
    if offset + length > end:
        raise DamagedError("its directory is not where it should be")
    members = sorted(_entries(read(offset, length), count), key=lambda member: member.offset)
    if len({member.name for member in members}) != len(members):
        raise DamagedError("two of its parts have the same name")
    after = tail[at + _END.size :]
    if len(after) < comment:
        raise CutOffError("its end is missing")
    return Archive(tuple(members), offset, after, len(after) == comment)


def verify(read: Read, archive: Archive, members: Sequence[Member] | None = None) -> None:
    """Compare the data of members with their checksums, and their headers with the directory.

    Args:
        read: the file.
        archive: its directory.
        members: in the order of the file; None: all.

    Raises:
        DamagedError: something differs.
    """
    window, position = _Window(read), 0
    compare = any(member.crc for member in archive.members)  # torch can be asked to leave them out: all are zero then
    for member in archive.members if members is None else members:
        start = _data_start(window, member, archive.directory)
        if member.offset < position or start + member.stored > archive.directory:
            raise DamagedError(f"its part {_shown(member)} is not where it should be")
        if compare and _crc(window, member, start) != member.crc:
            raise DamagedError(f"the checksum of its part {_shown(member)} is wrong")
        position = start + member.stored


def _wide_end(read: Read, end: int) -> tuple[int, int, int, int] | None:
    """Where the end record of 64 bits begins, and the number, length and offset of entries that it names."""
    found = read(max(end - _LOCATOR.size, 0), _LOCATOR.size)
    if len(found) < _LOCATOR.size or found[:4] != b"PK\6\7":
        return None
    _, _, at, _ = _LOCATOR.unpack(found)
    record = read(at, _END_64.size) if at + _END_64.size <= end else b""
    if record[:4] != b"PK\6\6":
        return None
    *_, count, length, offset = _END_64.unpack(record)
    return at, count, length, offset


def _entries(directory: bytes, count: int) -> Iterator[Member]:
    at = 0
    for _ in range(count):
        if len(directory) < at + _ENTRY.size or directory[at : at + 4] != b"PK\1\2":
            raise DamagedError("an entry of its directory is broken")
        (
            _, _, _, flags, method, _, _, crc, stored, size, names, extras, comments, _, _, attributes, offset,
        ) = _ENTRY.unpack_from(directory, at)  # fmt: skip
        start = at + _ENTRY.size
        at = start + names + extras + comments
        name = directory[start : start + names]
        if _FULL[32] in (stored, size, offset):
            stored, size, offset = _wide_fields(directory[start + names : start + names + extras], stored, size, offset)
        folder = name.endswith(b"/") or bool(attributes & _IS_FOLDER)
        yield Member(name, offset, stored, size, method, crc, bool(flags & _ENCRYPTED), folder)


def _wide_fields(extra: bytes, stored: int, size: int, offset: int) -> tuple[int, int, int]:
    """Sizes and offset of an entry, those of 64 bits from its extra fields."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{min(length, len(extra) - at) // 8}Q", extra, at))
            full = _FULL[32]
            size = next(numbers, size) if size == full else size
            stored = next(numbers, stored) if stored == full else stored
            offset = next(numbers, offset) if offset == full else offset
            break
        at += length
    return stored, size, offset


class _Window:
    """A file that is read forwards, in blocks."""

    def __init__(self, read: Read) -> None:
        self.read = read
        self.start = 0
        self.block = memoryview(b"")

    def piece(self, start: int, count: int) -> memoryview:
        """``count`` bytes, of at most a block; fewer at the end of the file."""
        if start < self.start or start + count > self.start + len(self.block):
            self.start, self.block = start, memoryview(self.read(start, BLOCK))
        return self.block[start - self.start : start - self.start + count]

    def pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes from ``start`` to ``stop``."""
        while start < stop:
            piece = self.piece(start, min(BLOCK, stop - start))
            if not piece:
                raise DamagedError("it ends too early")
            yield piece
            start += len(piece)


def _data_start(window: _Window, member: Member, directory: int) -> int:
    """Where the data of a member begins, behind its local header, which repeats what the directory says."""
    if member.offset + _LOCAL.size > directory:
        raise DamagedError(f"its part {_shown(member)} is not where it should be")
    if member.encrypted or member.method not in (_STORED, _DEFLATED) or (member.folder and member.size):
        raise DamagedError(f"the entry of its part {_shown(member)} is broken")
    if member.method == _STORED and member.stored != member.size:
        raise DamagedError(f"the size of its part {_shown(member)} is wrong")
    header = window.piece(member.offset, _LOCAL.size)
    mark, _, flags, method, _, _, _, _, _, names, extras = _LOCAL.unpack(header)
    start: int = member.offset + _LOCAL.size
    if mark != b"PK\3\4" or method != member.method or flags & _ENCRYPTED or window.piece(start, names) != member.name:
        raise DamagedError(f"the header of its part {_shown(member)} is broken")
    return start + int(names) + int(extras)


def _crc(window: _Window, member: Member, start: int) -> int:
    """The CRC-32 of a member's data."""
    pieces: Iterator[memoryview | bytes] = window.pieces(start, start + member.stored)
    if member.method == _DEFLATED:
        pieces = _inflated(pieces, member)
    found = 0
    for piece in pieces:
        found = zlib.crc32(piece, found)
    return found


def _inflated(pieces: Iterator[memoryview | bytes], member: Member) -> Iterator[bytes]:
    engine, length = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        for piece in pieces:
            rest: bytes | memoryview = piece
            while rest and length <= member.size:
                data = engine.decompress(rest, BLOCK)
                length, rest = length + len(data), engine.unconsumed_tail
                yield data
        data = engine.flush()
    except zlib.error as error:
        raise DamagedError(f"its part {_shown(member)} cannot be decompressed") from error
    yield data
    if length + len(data) != member.size:
        raise DamagedError(f"the size of its part {_shown(member)} is wrong")


def _shown(member: Member) -> str:
    return member.name.decode(errors="replace")
