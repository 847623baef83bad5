"""A progress bar with ETA and throughput on a terminal; plain log lines, or nothing, elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

_shown: list[Progress] = []  # bars that are open, the innermost last


class Progress:
    """Draws ``description [####----] done/total  rate  ETA  note`` on one line of a terminal.

    Where the stream is no terminal, ``plain`` (for instance a logger's method) gets a line at most every
    ``line_seconds``.

    Args:
        total: number of units of work.
        description: what is being done.
        unit: name of a unit for the rate ("images").
        done: units that an earlier run has done; they count for the bar, not for the rate.
        stream: where to draw.
        plain: receives lines where ``stream`` is no terminal.
        line_seconds: shortest time between two such lines.
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
    ) -> None:
        self.total, self.description, self.unit, self.plain = total, description, unit, plain
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.done = self.first = done
        self.note = ""
        self.interval = 0.1 if self.terminal else line_seconds
        self.started = self.drawn = time.monotonic()
        _shown.append(self)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.drop()

    def finish(self) -> None:
        """Draw the bar a last time and go to the next line; a second call does nothing."""
        if self not in _shown:
            return
        _shown.remove(self)
        if self.terminal:
            self._draw()
            self.stream.write("\n")
            self.stream.flush()

    def drop(self) -> None:
        """Take the bar off the screen for good: the work has failed, or there was none."""
        if self in _shown:
            _shown.remove(self)
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
        seconds = time.monotonic() - self.started
        rate = (self.done - self.first) / seconds if seconds > 0 else 0.0
        eta = clock((self.total - self.done) / rate) if rate > 0 else "-:--:--"
        line = f"{self.description} {self.done:,}/{self.total:,}  {rate:.3g} {self.unit}/s  ETA {eta}"
        return f"{line}  {self.note}" if self.note else line

    def _draw(self) -> None:
        filled = round(20 * self.done / self.total) if self.total else 20
        bar = "#" * filled + "-" * (20 - filled)
        self.stream.write(f"\r\x1b[2K[{bar}] {self.text()}")
        self.stream.flush()

    def clear(self) -> None:
        """Take the bar off its line, for a line of log above it; the next advance draws it again."""
        if self.terminal:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()
            self.drawn = 0.0


def console_line(text: str, stream: TextIO) -> None:
    """Write one line, above the progress bar if one is drawn."""
    if _shown:
        _shown[-1].clear()
    stream.write(text + "\n")
    stream.flush()


def clock(seconds: float) -> str:
    """``H:MM:SS``, with days where there are some: ``2 days, 3:04:05``."""
    days, rest = divmod(max(0, round(seconds)), 86400)
    text = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} day{'s' if days > 1 else ''}, {text}" if days else text
