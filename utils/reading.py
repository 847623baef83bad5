"""Reading files that a user names: regular files of a bounded size, so that reading never waits and never fills memory.

A pipe without a writer would be waited for without end, and a device may have no end. Such a path is refused as a
file that may not be read is: by an OSError, whose ``strerror`` completes "the file cannot be read: ...".
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from utils.errors import InputError

MOST_TEXT = 64 * 2**20
"""Bytes of a text (a list, a log, a JSON file) that is read as a whole; an entry for each of a million images fits."""

_LONGEST = 300  # characters of a path in a message
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# Without O_NONBLOCK, opening a pipe waits for a writer: the file may become one after it was looked at.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
)


def open_regular(path: str | Path, most: int | None = None) -> BinaryIO:
    """A regular file, open for reading bytes.

    Args:
        path: its name; a link is followed.
        most: bytes that it may have; None: any number.

    Raises:
        OSError: it is absent, may not be read, is a pipe, a socket, a device or a folder, or is larger than ``most``;
            or the path is none.
    """
    try:
        _check(Path(path).stat(), path, most)
        handle = os.open(path, _FLAGS)
    except ValueError as error:  # a null byte, or half of a character
        raise OSError(errno.EINVAL, "a path cannot hold such a character", str(path)) from error
    try:
        _check(os.fstat(handle), path, most)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | Path, most: int | None = None) -> bytes:
    """The content of a regular file; arguments and errors as :func:`open_regular`."""
    with open_regular(path, most) as file:
        content = file.read() if most is None else file.read(most + 1)
    if content is None:  # some files of /proc would have to be waited for
        raise OSError(errno.EINVAL, "it has no end", str(path))
    if most is not None and len(content) > most:  # it has grown, or tells no size
        raise _too_large(path, len(content), most)
    return content


def read_text(path: str | Path, what: str = "file", most: int = MOST_TEXT) -> str:
    """The content of a text file in UTF-8, with or without a byte order mark.

    Args:
        path: its name.
        what: what it is called in messages: "option file".
        most: bytes that it may have.

    Raises:
        InputError: it is absent, cannot be read, is no regular file, too large, or no text.
    """
    try:
        content = read_regular(path, most)
    except FileNotFoundError:
        raise InputError(f"{shown(path)}: no such {what}") from None
    except OSError as error:
        raise InputError(f"{shown(path)}: the {what} cannot be read: {error.strerror or error}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{shown(path)}:{line}: not a text file in UTF-8") from None


def shown(path: str | Path) -> str:
    """A path as messages name it: on one line, with what cannot be printed written out, and not without end."""
    text = str(path)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"


def _check(found: os.stat_result, path: str | Path, most: int | None) -> None:
    """Raise OSError unless this is a regular file of at most so many bytes."""
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
    if most is not None and found.st_size > most:
        raise _too_large(path, found.st_size, most)


def _too_large(path: str | Path, size: int, most: int) -> OSError:
    return OSError(errno.EFBIG, f"it has {size:,} bytes; at most {most:,} are read", str(path))
