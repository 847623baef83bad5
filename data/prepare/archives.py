"""The files of folders and archives, as one list; archives are read where they lie."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from data.images.files import Pixels, decode_image, read_bytes
from data.images.integrity import DAMAGE_ERRORS, png_size
from data.images.kinds import is_picture_name
from utils.errors import InputError
from utils.files import DISK_FULL, make_folder, storage_error
from utils.reading import open_regular

_LARGEST = 1 << 28  # bytes of an image file; an archive of some kilobytes can unpack to gigabytes
_ERRORS = (*DAMAGE_ERRORS, zipfile.BadZipFile, tarfile.TarError)  # of damaged archives
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image file.

    Attributes:
        path: names of folders and archives that lead to it, from the source's own name on.
        label: where it is, for messages.
        stamp: when it, or its archive, was changed, in nanoseconds.
        read: its bytes; raises InputError where they cannot be had.
    """

    path: PurePosixPath
    label: str
    stamp: int
    read: Callable[[], bytes]

    def pixels(self) -> Pixels:
        """uint8 [H, W, 3] RGB, or [H, W, 1] where the file is grey."""
        return decode_image(self.read(), self.label, keep_grey=True)

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """(height, width); PNG files are not decoded for it."""
        content = self.read()
        known = png_size(content)
        if known is not None:
            return known
        height, width = decode_image(content, self.label, keep_grey=True).shape[:2]
        return height, width


@dataclasses.dataclass
class Sources:
    """What folders and archives hold.

    Attributes:
        entries: the images, sorted by path.
        unreadable: why archives cannot be read, a line for each.
    """

    entries: list[Entry] = dataclasses.field(default_factory=list)
    unreadable: list[str] = dataclasses.field(default_factory=list)


@contextmanager
def open_sources(sources: Sequence[Path], target: Path, *, apart: bool = False) -> Iterator[Sources]:
    """The images of folders (with their sub-folders and the archives in them) and archives.

    Args:
        sources: folders and archives; they are only read.
        target: a folder on a disk with space: compressed tar files, which cannot be read in any order, are unpacked
            below it for the duration of the block.
        apart: refuse sources that hold ``target``, or lie in it.

    Raises:
        InputError: a source does not exist, or is neither a folder nor an archive.
        StorageError: there is no room to unpack an archive.
    """
    with ExitStack() as stack:
        found = Sources()
        for source in sources:
            if apart:
                _check_apart(source, target)
            for path, name in _files(source):
                try:
                    found.entries += _entries(path, name, target, stack)
                except InputError as error:
                    found.unreadable.append(str(error))
        found.entries.sort(key=lambda entry: entry.path)
        yield found


def is_archive(path: Path) -> bool:
    """Whether the name says that a file is an archive that can be read here."""
    return path.name.lower().endswith(ARCHIVES)


def _files(source: Path) -> list[tuple[Path, PurePosixPath]]:
    """The files of a source, and the names that lead to them."""
    if source.is_dir():
        name = source.resolve().name
        files = sorted(path for path in source.rglob("*") if path.is_file())
        return [(path, PurePosixPath(name, *path.relative_to(source).parts)) for path in files]
    if not source.is_file():
        raise InputError(f"{source}: there is no such file or folder (relative paths start at {Path.cwd()})")
    if not is_archive(source):
        raise InputError(f"{source}: neither a folder nor an archive ({', '.join(ARCHIVES)})")
    return [(source, PurePosixPath(source.name))]


def _entries(path: Path, name: PurePosixPath, target: Path, stack: ExitStack) -> list[Entry]:
    if is_picture_name(path.name):
        return [Entry(name, str(path), path.stat().st_mtime_ns, functools.partial(read_bytes, path))]
    if not is_archive(path):
        return []
    stamp = path.stat().st_mtime_ns
    try:
        if path.suffix.lower() == ".zip":
            file = stack.enter_context(open_regular(path))
            return _zip_entries(stack.enter_context(zipfile.ZipFile(file)), path, name, stamp)
        if path.name.lower().endswith(".tar"):
            file = stack.enter_context(open_regular(path))
            return _tar_entries(stack.enter_context(tarfile.open(fileobj=file, mode="r:")), path, name, stamp)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".unpacked-", dir=make_folder(target))))
        return _unpacked(path, name, stamp, folder)
    except _ERRORS as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise storage_error(target, error) from error
        raise InputError(f"{path}: the archive cannot be read ({error}); download it again") from error


def _zip_entries(archive: zipfile.ZipFile, path: Path, name: PurePosixPath, stamp: int) -> list[Entry]:
    def read(member: zipfile.ZipInfo) -> bytes:
        _check_length(member.file_size, f"{path}: {member.filename}")
        try:
            return archive.read(member)
        except _ERRORS as error:
            raise InputError(f"{path}: {member.filename} cannot be read: {error}") from error

    return [
        Entry(name / member.filename, f"{path}: {member.filename}", stamp, functools.partial(read, member))
        for member in archive.infolist()
        if not member.is_dir() and is_picture_name(member.filename)
    ]


def _tar_entries(archive: tarfile.TarFile, path: Path, name: PurePosixPath, stamp: int) -> list[Entry]:
    lock = threading.Lock()  # one file position for all readers

    def read(member: tarfile.TarInfo) -> bytes:
        _check_length(member.size, f"{path}: {member.name}")
        try:
            with lock:
                file = archive.extractfile(member)
                content = b"" if file is None else file.read()
        except _ERRORS as error:
            raise InputError(f"{path}: {member.name} cannot be read: {error}") from error
        if len(content) < member.size:
            raise InputError(f"{path}: {member.name} is cut short; download the archive again")
        return content

    return [
        Entry(name / member.name, f"{path}: {member.name}", stamp, functools.partial(read, member))
        for member in archive
        if member.isfile() and is_picture_name(member.name)
    ]


def _unpacked(path: Path, name: PurePosixPath, stamp: int, folder: Path) -> list[Entry]:
    """The images of a compressed tar file, in files named by numbers: names inside of archives are not trusted."""
    found: list[Entry] = []
    with open_regular(path) as packed, tarfile.open(fileobj=packed) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is None or not is_picture_name(member.name):
                continue
            label = f"{path}: {member.name}"
            place = folder / str(len(found))
            if member.size <= _LARGEST:
                with place.open("wb") as copy:
                    shutil.copyfileobj(file, copy)
            read = functools.partial(_read_unpacked, place, member.size, label)
            found.append(Entry(name / member.name, label, stamp, read))
    return found


def _read_unpacked(place: Path, size: int, label: str) -> bytes:
    _check_length(size, label)
    return read_bytes(place)


def _check_length(size: int, label: str) -> None:
    if size > _LARGEST:
        raise InputError(f"{label}: it unpacks to {size:,} bytes, and at most {_LARGEST:,} are read")


def _check_apart(source: Path, target: Path) -> None:
    one, other = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if one == other or one in other.parents or other in one.parents:
        raise InputError(f"{source} and {target}: one lies in the other; sources are left alone, choose another folder")
