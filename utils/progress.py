"""A progress bar with ETA and throughput on a terminal; plain log lines, or nothing, elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from utils.terminal import Colour, can_redraw, columns_of, cut_to, one_line, painted, put, terminal_columns

_shown: list[Progress] = []  # bars on a terminal that are open, the innermost last
_others: list[bool] = []  # not empty: another process draws on this terminal
_GAP = "  "  # between the parts of a line
_CLEAR = "\r\x1b[2K"
_MARKS: dict[str, Colour] = {"error:": "red", "failed:": "red", "warning:": "yellow"}


class Progress:
    """Draws ``[####----] description done/total  rate  ETA  note`` on one line of a terminal.

    On a narrow terminal the bar gets shorter, then parts are left out: a line that has wrapped could not be drawn over.
    Where the stream is no terminal, ``plain`` (for instance a logger's method) gets a line at most every
    ``line_seconds``.

    Args:
        total: number of units of work.
        description: what is being done.
        unit: name of a unit for the rate: "images", "iter" for what the log calls so.
        done: units that an earlier run has done; they count for the bar, not for the rate.
        stream: where to draw.
        plain: receives lines where ``stream`` is no terminal.
        line_seconds: shortest time between two such lines.
        shown: False draws and writes nothing, as for the ranks of a distributed run that do not log.
    """

    def __init__(
        self,
        total: int,
        description: str,
        *,
        unit: str = "images",
        done: int = 0,
        stream: TextIO | None = None,
        plain: Callable[[str], None] | None = None,
        line_seconds: float = 30.0,
        shown: bool = True,
    ) -> None:
        self.total, self.description, self.unit = total, description, unit
        self.plain = plain if shown else None
        self.stream = stream or sys.stderr
        self.terminal = shown and can_redraw(self.stream)
        self.done = self.first = done
        self.note = ""
        self.interval = 0.1 if self.terminal else line_seconds
        self.started = self.drawn = time.monotonic()
        if self.terminal:  # others are never on the screen, where they would hide an open one from console_line
            _shown.append(self)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(keep=error is None)

    def finish(self, *, keep: bool = True) -> None:
        """Draw the bar a last time and go to the next line; a second call does nothing.

        Args:
            keep: False takes the bar off the screen instead: what it counted was not finished.
        """
        if self not in _shown:
            return
        _shown.remove(self)
        if self.terminal and keep:
            self._draw()
            put(self.stream, "\n")
        else:
            self.clear()

    def advance(self, units: int = 1, note: str | None = None, done: int | None = None) -> None:
        """Count ``units`` more (or set ``done``); ``note`` is shown behind the ETA."""
        self.done = self.done + units if done is None else done
        if note is not None:
            self.note = note
        now = time.monotonic()
        if now - self.drawn >= self.interval:
            self.drawn = now
            if self.terminal:
                self._draw()
            elif self.plain:
                self.plain(self.text())

    def text(self) -> str:
        """The line without the bar: ``description 12/100  3.4 images/s  ETA 0:00:26``."""
        rate, eta = self._speed()
        parts = [f"{self.description} {self._count()}", rate, eta, self.note]
        return _GAP.join(part for part in parts if part)

    def line(self, columns: int) -> str:
        """What is drawn: at most ``columns`` columns, the first of the forms below that fits.

        With a bar of 20, a bar of 10, the end of the note left out, no note, no bar, no rate; the description is cut
        last.
        """
        rate, eta = self._speed()
        description, count = one_line(self.description), self._count()
        notes = [part for part in one_line(self.note).split(_GAP) if part]
        head = f"{description} {count}"
        forms = [[f"{self._bar(20)} {head}", rate, eta, *notes]]
        forms += [[f"{self._bar(10)} {head}", rate, eta, *notes[:kept]] for kept in range(len(notes), -1, -1)]
        forms += [[head, rate, eta], [head, eta]]
        for form in forms:
            text = _GAP.join(form)
            if columns_of(text) <= columns:
                return text
        room = columns - columns_of(f" {count}{_GAP}{eta}")
        return cut_to(f"{cut_to(description, room)} {count}{_GAP}{eta}".lstrip(), columns)

    def _count(self) -> str:
        return f"{self.done:,}/{self.total:,}"

    def _speed(self) -> tuple[str, str]:
        """Rate and ETA, of what this run has done."""
        seconds = time.monotonic() - self.started
        rate = (self.done - self.first) / seconds if seconds > 0 else 0.0
        eta = clock((self.total - self.done) / rate) if rate > 0 else "-:--:--"
        return f"{rate:.3g} {self.unit}/s", f"ETA {eta}"

    def _bar(self, length: int) -> str:
        filled = min(length, round(length * self.done / self.total)) if self.total else length
        return f"[{'#' * filled}{'-' * (length - filled)}]"

    def _draw(self) -> None:
        # One column less than there are: some terminals wrap when the last one is filled.
        put(self.stream, f"{_CLEAR}{self.line(terminal_columns(self.stream) - 1)}")

    def clear(self) -> None:
        """Take the bar off its line, for a line of log above it; the next advance draws it again."""
        if self.terminal:
            put(self.stream, _CLEAR)
            self.drawn = 0.0


def share_terminal() -> None:
    """From now on lines are written over the bar that another process draws on the same terminal, which comes again."""
    _others.append(True)


def console_line(text: str, stream: TextIO) -> bool:
    """Write one line, above the progress bar if one is drawn; ``error:`` and the like at its start are coloured.

    Returns:
        Whether it was written: the standard error may have lost its other end.
    """
    if _shown:
        _shown[-1].clear()
    elif _others and can_redraw(sys.stderr):
        put(sys.stderr, _CLEAR)
    first = text.partition(" ")[0]
    if first in _MARKS:
        text = painted(first, _MARKS[first], stream) + text[len(first) :]
    return put(stream, text + "\n")


def clock(seconds: float) -> str:
    """``H:MM:SS``, with days where there are some: ``2 days, 3:04:05``."""
    days, rest = divmod(max(0, round(seconds)), 86400)
    text = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} day{'s' if days > 1 else ''}, {text}" if days else text
