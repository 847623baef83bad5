"""Single images, wherever they are stored: files in folders, entries of LMDB data sets."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Protocol

from data.images.files import Pixels, decode_image, is_file, read_bytes, read_image
from data.images.lmdb_pages import needed_bytes
from utils.errors import InputError
from utils.reading import open_regular

if TYPE_CHECKING:
    import lmdb

_LMDB_LINE = re.compile(r"(?P<key>.+?)\.\w+ \(\d+,\s*\d+,\s*\d+\)( \d+)?")

# One environment per folder and process: LMDB forbids a second one in the same process, and one that was opened
# before a fork must not be used by the child.
_environments: dict[Path, tuple[int, lmdb.Environment]] = {}
# One lock per process: a fork may happen while a thread holds it, and the child has no such thread.
_opening: dict[int, threading.Lock] = {}


class ImageSource(Protocol):
    """One image that has not been read yet."""

    @property
    def name(self) -> str:
        """Base name without extension."""

    @property
    def label(self) -> str:
        """Where it is, for people."""

    def read(self) -> Pixels:
        """uint8 [H, W, 3] RGB; raises InputError when it cannot be read."""


@dataclass(frozen=True)
class FileImage:
    """An image file."""

    path: Path

    @property
    def name(self) -> str:
        """See :class:`ImageSource`."""
        return self.path.stem

    @property
    def label(self) -> str:
        """See :class:`ImageSource`."""
        return str(self.path)

    def read(self) -> Pixels:
        """See :class:`ImageSource`."""
        return read_image(self.path)

    def content(self) -> bytes:
        """The bytes of the file; raises InputError when it cannot be read."""
        return read_bytes(self.path)


@dataclass(frozen=True)
class LmdbImage:
    """An entry of an LMDB folder as BasicSR writes it: the bytes of an image file under its name."""

    folder: Path
    key: str

    @property
    def name(self) -> str:
        """See :class:`ImageSource`."""
        return PurePosixPath(self.key).name

    @property
    def label(self) -> str:
        """See :class:`ImageSource`."""
        return f"{self.folder}: {self.key}"

    def read(self) -> Pixels:
        """See :class:`ImageSource`."""
        return decode_image(self.content(), self.label)

    def content(self) -> bytes:
        """The bytes of the image file; raises InputError when there is no such entry or the data set is damaged."""
        import lmdb

        try:
            with _environment(self.folder).begin() as transaction:
                value = transaction.get(self.key.encode())
        except lmdb.Error as error:
            raise InputError(f"{self.label}: the LMDB data set is damaged: {error}; copy it again") from error
        if value is None:
            raise InputError(f"{self.folder}: there is no entry {self.key}, although meta_info.txt lists it")
        return bytes(value)


def lmdb_images(folder: Path) -> list[LmdbImage]:
    """The entries that ``meta_info.txt`` of an LMDB folder lists, sorted by key.

    Raises:
        InputError: it is no such folder, or the list cannot be read.
    """
    listing = folder / "meta_info.txt"
    if folder.suffix != ".lmdb" or not is_file(folder / "data.mdb") or not is_file(listing):
        missing = "does not exist" if not folder.is_dir() else "is no LMDB data set"
        raise InputError(f"{folder} {missing}: expected a folder NAME.lmdb with data.mdb and meta_info.txt")
    try:
        text = read_bytes(listing).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{listing}: the list is not UTF-8 (byte {error.start:,}); copy it again") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{listing}: lists no images")
    return [LmdbImage(folder, key) for key in sorted(_key(line) for line in lines)]


def _key(line: str) -> str:
    """``a.b.png (8,10,3) 1`` -> ``a.b``; a line of another form counts up to its first point."""
    match = _LMDB_LINE.fullmatch(line.strip())
    return match["key"] if match else line.strip().split(".")[0]


def _environment(folder: Path) -> lmdb.Environment:
    """The environment of this process for ``folder``, opened when first needed."""
    with _opening.setdefault(os.getpid(), threading.Lock()):  # threads read side by side
        return _opened(folder, folder.resolve())


def _opened(folder: Path, place: Path) -> lmdb.Environment:
    owner, environment = _environments.get(place, (0, None))
    if environment is not None:
        if owner == os.getpid():
            return environment
        environment.close()  # inherited by a fork: only this process's copy is closed
    try:
        import lmdb
    except ImportError as error:
        raise InputError(f"{folder}: LMDB data sets need the package lmdb: pip install lmdb") from error
    try:
        with open_regular(place / "data.mdb") as file:
            opened = lmdb.open(os.fsencode(place), readonly=True, lock=False, readahead=False, meminit=False)
            _check_whole(folder, file, opened)
    except (lmdb.Error, OSError) as error:
        raise InputError(f"{folder}: the LMDB data set cannot be opened: {error}") from error
    _environments[place] = (os.getpid(), opened)
    return opened


def _check_whole(folder: Path, file: BinaryIO, environment: lmdb.Environment) -> None:
    """Refuse a file that was cut short: LMDB would touch memory that is not there, which ends the process (SIGBUS)."""
    facts, last = environment.stat(), environment.info()["last_pgno"]
    found = os.fstat(file.fileno()).st_size
    if found >= (last + 1) * facts["psize"]:
        return
    needed = needed_bytes(file, facts["psize"])
    if needed is None or found < needed:
        environment.close()
        told = f" ({found:,} of {needed:,} bytes)" if needed else f" ({found:,} bytes)"
        raise InputError(f"{folder / 'data.mdb'} is cut short{told}; copy it again")
