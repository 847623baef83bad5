"""Ctrl-C and SIGTERM as a request that long work answers at its next safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopFlag:
    """Which signal, if any, has asked the process to leave."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it; 0 when none came."""
        return 0 if self.signal is None else EXIT_CODES[self.signal]


@contextmanager
def catch_signals() -> Iterator[StopFlag]:
    """A flag that the first SIGINT or SIGTERM sets; a second one interrupts at once.

    Outside the main thread, where Python allows no handlers, the flag stays unset.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    previous = {number: signal.getsignal(number) for number in EXIT_CODES}

    def handle(number: int, frame: FrameType | None) -> None:
        flag.signal = signal.Signals(number)
        for known, handler in previous.items():
            signal.signal(known, handler)

    for number in EXIT_CODES:
        signal.signal(number, handle)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
