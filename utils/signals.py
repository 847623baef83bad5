"""Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP as a request that long work answers at its next safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from utils.errors import StopRequested

EXIT_CODES = {
    getattr(signal, name): code
    for name, code in {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 138, "SIGHUP": 129}.items()
    if hasattr(signal, name)  # Windows has two of them
}
"""128 + the number of the signal, as shells report it.

SIGUSR1 is how SLURM announces the end of a job's time, SIGHUP how a terminal that is closed ends its programs.
"""


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


_open: list[StopFlag] = []  # of catch_signals, the innermost last


def requested() -> signal.Signals | None:
    """The signal that an open :func:`catch_signals` has caught, if any; for long work in threads that lack its flag."""
    return next((flag.signal for flag in _open if flag), None)


@contextmanager
def leave_at_once() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that was closed, raise StopRequested wherever the main thread is.

    For work without safe points, which cleans up behind itself as it does after Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise StopRequested(f"stopped by {signal.Signals(number).name}", 128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What is ignored stays so: nohup.
    wanted = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def catch_signals() -> Iterator[StopFlag]:
    """A flag that the first of the signals sets; a second one interrupts at once.

    Outside the main thread, where Python allows no handlers, the flag stays unset.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    handlers = {number: signal.getsignal(number) for number in EXIT_CODES}
    previous = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}  # nohup

    def handle(number: int, frame: FrameType | None) -> None:
        flag.signal = signal.Signals(number)
        for known, handler in previous.items():
            signal.signal(known, handler)

    for number in previous:
        signal.signal(number, handle)
    _open.append(flag)
    try:
        yield flag
    finally:
        _open.remove(flag)
        for number, handler in previous.items():
            signal.signal(number, handler)
