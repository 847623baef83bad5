"""What a terminal can show: its width, the columns that a text takes, and whether colours are wanted."""

from __future__ import annotations

import os
import select
import sys
import unicodedata
from contextlib import suppress
from typing import Literal, TextIO

Colour = Literal["red", "yellow"]

_CODES: dict[Colour, str] = {"red": "\x1b[1;31m", "yellow": "\x1b[1;33m"}
_RESET = "\x1b[0m"
_FALLBACK = 80  # columns of a terminal that does not say how wide it is


def can_redraw(stream: TextIO) -> bool:
    """Whether a line of the stream can be drawn again: it is a terminal, and none that only appends (TERM=dumb)."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def wants_colours(stream: TextIO) -> bool:
    """Whether a stream gets colours: NO_COLOR (any value) says no, then FORCE_COLOR yes, then the terminal decides.

    The variables are those of https://no-color.org and https://force-color.org, in the order that Python reads them.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return can_redraw(stream)


def painted(text: str, colour: Colour, stream: TextIO) -> str:
    """``text`` in a colour where the stream gets colours, else as it is."""
    return f"{_CODES[colour]}{text}{_RESET}" if wants_colours(stream) else text


def terminal_columns(stream: TextIO) -> int:
    """Columns of the terminal behind a stream: COLUMNS where that is set, else what the terminal says, else 80.

    Not ``shutil.get_terminal_size``, which asks the standard output whatever the stream.
    """
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _FALLBACK
    except (OSError, ValueError):  # no terminal, or a stream without a file
        return _FALLBACK


def put(stream: TextIO, text: str) -> bool:
    """Write to a stream at once; whether that succeeded.

    The standard error may lose its other end (a closed terminal, ``2>&1 | head``) without an end to the work: from then
    on it leads nowhere. Of other streams, the failure is raised.
    """
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        if stream is not sys.stderr:
            raise
        abandon(stream)
        return False
    return True


def nobody_reads(stream: TextIO) -> bool:
    """Whether the other end of a pipe is closed."""
    if not hasattr(select, "poll"):  # Windows
        return False
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are always reported
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # it is none of a file
        return False


def abandon(stream: TextIO) -> None:
    """Let a stream lead nowhere from now on, with what is left in its buffer: Python would complain when it ends."""
    with suppress(OSError, ValueError):  # it is none of a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def columns_of(text: str) -> int:
    """Columns that a text takes: wide characters (East Asian, emoji) two, combining marks none."""
    return sum(_columns(character) for character in text)


def cut_to(text: str, columns: int) -> str:
    """A text in at most ``columns`` columns; what is cut off leaves an ellipsis."""
    if columns_of(text) <= columns:
        return text
    kept, room = "", columns - 1  # for the ellipsis
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        kept += character
    return kept + "…" if columns > 0 else ""


def one_line(text: str) -> str:
    """A text without characters that would move the cursor: names of files may hold line feeds and escapes."""
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Cf" else "?" for c in text)


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
