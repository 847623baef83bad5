"""Weight files compared with their checksums while they are read, and the seal that files of FocalSR carry.

The seal is the CRC-32 of all other bytes of the file: in the comment at the end of a torch file, which is a zip
archive, and under :data:`SEAL_KEY` in the metadata of a safetensors file. Other programs pass over both. Torch files of
others have a CRC-32 of each tensor (:mod:`utils.tensor_files.archive`); their safetensors files, and torch files in the
form before PyTorch 1.6, have none.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from utils.errors import InputError
from utils.tensor_files.archive import Archive, DamagedError, Read, read_directory, reader, verify

SEAL_KEY = "focalsr_crc32"
UNSEALED = "0" * 8
_COMMENT = b"focalsr-crc32:"
_IN_COMMENT = re.compile(re.escape(_COMMENT) + rb"([0-9a-f]{8})")
_IN_METADATA = re.compile(rf'"{SEAL_KEY}":"([0-9a-f]{{8}})"'.encode())
_AT_ONCE = 1 << 20
"""Bytes of a file that is compared before it is read: a thread would take longer."""
_BLOCK = 16 << 20
"""Bytes at a time. A thread waits for the interpreter after each block: few of them fit beside the reading."""


@dataclass(frozen=True)
class Seal:
    """A seal, and where it is in the file.

    Attributes:
        value: eight hexadecimal digits.
        offset: of the digits.
    """

    value: str
    offset: int

    def verify(self, read: Read, size: int) -> None:
        """Compare it with the file.

        Raises:
            DamagedError: it differs.
        """
        if self.value != _sum_around(self.offset, read, size):
            raise DamagedError("its checksum is wrong")


@contextmanager
def compared(file: BinaryIO, path: Path, *, safetensors: bool) -> Iterator[None]:
    """Compare an open weight file with its checksums: before the block, or beside it where the file is large.

    A file that is damaged is reported at the end of the block, in place of whatever went wrong inside.

    Raises:
        InputError: it is damaged, or cannot be read.
    """
    read, size = reader(file), os.fstat(file.fileno()).st_size
    with explained(path):
        seal = _tensors_seal(read, size) if safetensors else _checked_archive(read, size)

    def compare(sealed: Seal) -> None:
        with explained(path):
            sealed.verify(read, size)

    if seal is None:
        yield
    elif size < _AT_ONCE or not hasattr(os, "pread"):
        compare(seal)
        yield
    else:
        with ThreadPoolExecutor(1, thread_name_prefix="checksum") as pool:
            result = pool.submit(compare, seal)
            try:
                yield
            finally:
                result.result()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Damage as an InputError that names the file and the next move."""
    try:
        yield
    except DamagedError as error:
        raise InputError(f"{path}: the file is damaged: {error}; take another copy of it, or another file") from error
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read: {error.strerror or error}") from error


def sealed_archive(content: memoryview) -> Iterable[bytes | memoryview]:
    """An archive that torch has written, with its seal, in parts."""
    ending = (len(_COMMENT) + len(UNSEALED)).to_bytes(2, "little") + _COMMENT
    body = content[:-2]  # they are the length of the comment, of which torch writes none
    return body, ending, _digits(zlib.crc32(ending, zlib.crc32(body)))


def sealed_tensors(content: bytes) -> Iterable[bytes | memoryview]:
    """A safetensors file with :data:`UNSEALED` under :data:`SEAL_KEY` of its metadata, with its seal, in parts."""
    match = _IN_METADATA.search(content)
    assert match is not None
    before, after = memoryview(content)[: match.start(1)], memoryview(content)[match.end(1) :]
    return before, _digits(zlib.crc32(after, zlib.crc32(before))), after


def _checked_archive(read: Read, size: int) -> Seal | None:
    """The seal of a torch file; without one all members are compared with their checksums.

    With one, only what torch unpickles is, for now: nothing that is damaged shall be.
    """
    if read(0, 2) != b"PK":
        return None
    archive = read_directory(read, size)
    seal = _archive_seal(archive, size)
    verify(read, archive, None if seal is None else archive.pickled)
    return seal


def _archive_seal(archive: Archive, size: int) -> Seal | None:
    if _COMMENT not in archive.comment:
        return None
    match = _IN_COMMENT.fullmatch(archive.comment)
    if match is None or not archive.complete:
        raise DamagedError("its end is not as it was written: bytes were changed, cut off or added")
    return Seal(match[1].decode(), size - len(match[1]))


def _tensors_seal(read: Read, size: int) -> Seal | None:
    length = int.from_bytes(read(0, 8), "little")
    header = read(8, length) if 8 + length <= size else b""
    if SEAL_KEY.encode() not in header:
        return None
    match = _IN_METADATA.search(header)
    if match is None:
        raise DamagedError(f'the entry "{SEAL_KEY}" of its metadata is no checksum')
    return Seal(match[1].decode(), 8 + match.start(1))


def _sum_around(seal: int, read: Read, size: int) -> str:
    """The CRC-32 of a file but for the seal at this offset."""
    found = 0
    for begin, end in ((0, seal), (seal + len(UNSEALED), size)):
        for start in range(begin, end, _BLOCK):
            found = zlib.crc32(read(start, min(_BLOCK, end - start)), found)
    return _digits(found).decode()


def _digits(value: int) -> bytes:
    return f"{value:08x}".encode()
