"""Files that are never seen half-written, and folders that are never overwritten."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import IO, BinaryIO

from utils.errors import InputError, StorageError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_BROKEN = tuple(
    getattr(errno, name)
    for name in ("EIO", "EREMOTEIO", "ESTALE", "EROFS", "ENODEV", "ENXIO", "ETIMEDOUT", "EHOSTDOWN")
    if hasattr(errno, name)
)
"""What a disk, or the server of a network file system, says when it fails."""
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNFINISHED = re.compile(r"\.(.+)\.\d+\.part")
_NO_FOLDER = (errno.ENOTDIR, errno.EEXIST)
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` only when the block ends without an exception.

    The bytes go to a temporary file in the same folder, which is flushed to the disk and renamed; on any exception
    it is removed and what was at ``path`` stays. Meanwhile it is locked, for :func:`remove_unfinished`.

    Raises:
        StorageError: the disk is full or broken.
        InputError: the folder cannot be made or written.
    """
    _refuse_special(path)
    temporary = unfinished(path)
    make_folder(path.parent)
    try:
        with temporary.open("wb") as file:
            lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with suppress(OSError):  # mostly it is renamed; a name that is too long cannot even be asked for
            temporary.unlink()


def _refuse_special(path: Path) -> None:
    """Raise InputError about a pipe or a device, which a file would take the place of: ``/dev/null`` would be gone."""
    try:
        kind = path.stat().st_mode
    except (OSError, ValueError):  # nothing is there, or whoever writes finds out
        return
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise InputError(f"{path} is a pipe or a device, not a file; choose another name")


def unfinished(path: Path) -> Path:
    """The hidden file beside ``path`` that this process writes to before it takes that name."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def remove_unfinished(paths: Iterable[Path]) -> None:
    """Remove what killed runs left of these files half-written; what a process is writing is locked, and stays."""
    names: defaultdict[Path, set[str]] = defaultdict(set)
    for path in paths:
        names[path.parent].add(path.name)
    for folder, wanted in names.items():
        with suppress(OSError), os.scandir(folder) as entries:
            found = [(Path(entry), _UNFINISHED.fullmatch(entry.name)) for entry in entries]
            _remove_unlocked([path for path, match in found if match and match[1] in wanted])


def remove_all_unfinished(folder: Path) -> int:
    """Remove what killed processes left half-written in a folder and those below it; returns how many files."""
    return _remove_unlocked(
        Path(place, name)
        for place, _, names in os.walk(folder)  # which passes over what it cannot list
        for name in names
        if _UNFINISHED.fullmatch(name)
    )


def _remove_unlocked(files: Iterable[Path]) -> int:
    removed = 0
    for leftover in files:
        with suppress(OSError), leftover.open("rb") as begun:
            if lock(begun):
                leftover.unlink()
                removed += 1
    return removed


def lock(file: IO[bytes] | int) -> bool | None:
    """Lock an open file until it is closed: True; False: another process has it; None: there are no locks here."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have none
        return None
    return True


def write_text(path: Path, text: str) -> None:
    r"""Write UTF-8 text by :func:`atomic_write`.

    Of a path that is no UTF-8, Python has half characters; they become ``\udcff`` and the like, which JSON reads back.
    """
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Write JSON, indented, by :func:`atomic_write`."""
    write_text(path, json_text(value, indent=2) + "\n")


def json_text(value: object, indent: int | None = None) -> str:
    """``value`` as JSON; numbers that JSON cannot write (NaN, infinity) become null."""
    return json.dumps(_without_nan(value), indent=indent, ensure_ascii=False, allow_nan=False)


def make_folder(path: Path) -> Path:
    """The folder, made with its parents where it did not exist.

    Raises:
        InputError: it cannot be made there.
    """
    try:
        missing = list(takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
        path.mkdir(parents=True, exist_ok=True)
        for folder in reversed(missing):
            sync_folder(folder.parent)  # else a power failure could take it away with all that is in it
    except OSError as error:
        raise storage_error(path, error) from error
    return path


def check_writable(path: Path) -> None:
    """Make sure, before the work, that a file can be written there later; nothing is left behind.

    Raises:
        InputError: it cannot, because of its name, a right or what lies in its way.
        StorageError: the disk is full or broken.
    """
    if os.path.isdir(path):  # noqa: PTH112  of a name that is too long Path.is_dir raises
        raise storage_error(path, IsADirectoryError(errno.EISDIR, ""))
    _refuse_special(path)
    check_folder(path.parent, path)


def check_folder(folder: Path, file: Path | None = None) -> None:
    """:func:`check_writable` for files in a folder, which need not be there yet; ``file`` is the one to name."""
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            (file or folder).lstat()  # raises where the name is too long
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists() or place.is_symlink())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "")
        with tempfile.TemporaryFile(dir=there):  # has no name, or loses it at once
            pass
    except OSError as error:
        raise storage_error(file or folder, error) from error


def archive_existing(path: Path) -> Path | None:
    """Move an existing file or folder out of the way, to ``NAME_archived_YYYYMMDD_HHMMSS``; returns its new place.

    A number is added where two runs within one second would collide.

    Raises:
        InputError: no permission to rename it.
    """
    if not path.exists():
        return None
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")  # local time, as BasicSR names them
    target = path.with_name(f"{path.name}_archived_{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}_archived_{stamp}_{number}")
    rename_whole(path, target)
    return target


def rename_whole(path: Path, target: Path) -> None:
    """Give a file or folder another name in the same folder, and wait until the disk knows it; replaces files.

    Raises:
        StorageError: the disk is broken.
        InputError: no permission to rename it.
    """
    try:
        path.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def sync_file(path: Path) -> None:
    """Wait until what anybody has written to a file is on the disk, and its name; nothing where there is none.

    Raises:
        StorageError: the disk is full or broken.
    """
    try:
        with suppress(FileNotFoundError), path.open("r+b") as file:
            os.fsync(file.fileno())
            sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk: of files that were made, renamed or removed.

    Nothing where that cannot be asked for: on Windows, and on some network file systems.

    Raises:
        OSError: the disk is broken.
    """
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may write into it, but not list it
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    finally:
        os.close(handle)


def storage_error(path: Path, error: OSError) -> InputError | StorageError:
    """``error`` as one sentence that names the file and the remedy; InputError where the path itself is to blame."""
    if error.errno in DISK_FULL:
        return StorageError(f"the disk is full: {path} could not be written; free some space and resume")
    if error.errno in _FORBIDDEN:
        return InputError(f"no permission to write {path}; choose another folder or change its rights")
    if error.errno in _NO_FOLDER:
        return InputError(f"{path} cannot be written: a part of this path is a file, not a folder; choose another")
    if error.errno == errno.EISDIR:
        return InputError(f"{path} cannot be written: it is a folder; remove it or choose another name")
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"{path} cannot be written: the name is too long; choose a shorter one")
    return StorageError(f"{path} could not be written: {error.strerror or error}")


def _without_nan(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
