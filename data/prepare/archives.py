"""The files of folders and archives, as one list; archives are read where they lie."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from data.images.files import Pixels, decode_image, read_bytes
from data.images.integrity import png_size
from data.images.kinds import is_picture_name
from utils.errors import InputError
from utils.files import make_folder

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


@contextmanager
def open_sources(sources: Sequence[Path], target: Path, *, apart: bool = False) -> Iterator[list[Entry]]:
    """The images of folders (with their sub-folders and the archives in them) and archives, sorted by path.

    Args:
        sources: folders and archives; they are only read.
        target: a folder on a disk with space: compressed tar files, which cannot be read in any order, are unpacked
            below it for the duration of the block.
        apart: refuse sources that hold ``target``, or lie in it.

    Raises:
        InputError: a source does not exist or cannot be read.
    """
    with ExitStack() as stack:
        found: list[Entry] = []
        for source in sources:
            if apart:
                _check_apart(source, target)
            found += _entries(source, target, stack)
        yield sorted(found, key=lambda entry: entry.path)


def is_archive(path: Path) -> bool:
    """Whether the name says that a file is an archive that can be read here."""
    return path.name.lower().endswith(ARCHIVES)


def _entries(source: Path, target: Path, stack: ExitStack) -> list[Entry]:
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.is_file())
        name = source.resolve().name
        return [
            entry
            for path in files
            for entry in _entries_of_file(path, PurePosixPath(name, *path.relative_to(source).parts), target, stack)
        ]
    if not source.is_file():
        raise InputError(f"{source}: there is no such file or folder (relative paths start at {Path.cwd()})")
    if not is_archive(source):
        raise InputError(f"{source}: neither a folder nor an archive ({', '.join(ARCHIVES)})")
    return _entries_of_file(source, PurePosixPath(source.name), target, stack)


def _entries_of_file(path: Path, name: PurePosixPath, target: Path, stack: ExitStack) -> list[Entry]:
    if is_picture_name(path.name):
        return [Entry(name, str(path), path.stat().st_mtime_ns, functools.partial(read_bytes, path))]
    if not is_archive(path):
        return []
    stamp = path.stat().st_mtime_ns
    try:
        if path.suffix.lower() == ".zip":
            return _zip_entries(stack.enter_context(zipfile.ZipFile(path)), path, name, stamp)
        if path.name.lower().endswith(".tar"):
            return _tar_entries(stack.enter_context(tarfile.open(path, "r:")), path, name, stamp)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".unpacked-", dir=make_folder(target))))
        return _unpacked(path, name, stamp, folder)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: the archive cannot be read ({error}); download it again") from error


def _zip_entries(archive: zipfile.ZipFile, path: Path, name: PurePosixPath, stamp: int) -> list[Entry]:
    def read(member: zipfile.ZipInfo) -> bytes:
        try:
            return archive.read(member)
        except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error, NotImplementedError) as error:
            raise InputError(f"{path}: {member.filename} cannot be read: {error}") from error

    return [
        Entry(name / member.filename, f"{path}: {member.filename}", stamp, functools.partial(read, member))
        for member in archive.infolist()
        if not member.is_dir() and is_picture_name(member.filename)
    ]


def _tar_entries(archive: tarfile.TarFile, path: Path, name: PurePosixPath, stamp: int) -> list[Entry]:
    lock = threading.Lock()  # one file position for all readers

    def read(member: tarfile.TarInfo) -> bytes:
        try:
            with lock:
                file = archive.extractfile(member)
                content = b"" if file is None else file.read()
        except (tarfile.TarError, OSError, EOFError) as error:
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
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is None or not is_picture_name(member.name):
                continue
            place = folder / str(len(found))
            with place.open("wb") as copy:
                shutil.copyfileobj(file, copy)
            read = functools.partial(read_bytes, place)
            found.append(Entry(name / member.name, f"{path}: {member.name}", stamp, read))
    return found


def _check_apart(source: Path, target: Path) -> None:
    one, other = source.resolve(), target.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise InputError(f"{source} and {target}: one lies in the other; sources are left alone, choose another folder")
