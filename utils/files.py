"""Files that are never seen half-written, and folders that are never overwritten."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, BinaryIO

from utils.errors import InputError, StorageError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNFINISHED = re.compile(r"\.(.+)\.\d+\.part")
_NO_FOLDER = (errno.ENOTDIR, errno.EEXIST)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` only when the block ends without an exception.

    The bytes go to a temporary file in the same folder, which is flushed to the disk and renamed; on any exception
    it is removed and what was at ``path`` stays. Meanwhile it is locked, for :func:`remove_unfinished`.

    Raises:
        StorageError: the disk is full or broken.
        InputError: the folder cannot be made or written.
    """
    temporary = unfinished(path)
    make_folder(path.parent)
    try:
        with temporary.open("wb") as file:
            lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with suppress(OSError):  # mostly it is renamed; a name that is too long cannot even be asked for
            temporary.unlink()


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
            for leftover in [path for path, match in found if match and match[1] in wanted]:
                with suppress(OSError), leftover.open("rb") as begun:
                    if lock(begun):
                        leftover.unlink()


def lock(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed; whether that succeeded: no other process has it, and there are locks."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or this file system has no locks
        return False
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
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    return path


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
    try:
        path.rename(target)
    except OSError as error:
        raise storage_error(path, error) from error
    return target


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


def _sync_folder(folder: Path) -> None:
    """Flush a rename to the disk, where folders can be synchronised (not on Windows)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _without_nan(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
