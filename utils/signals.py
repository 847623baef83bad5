"""Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP as a request that long work answers at its next safe point."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from utils.errors import StopRequested
from utils.log import get_logger
from utils.start import first_parent

GRACE = 20.0  # seconds to save and leave in, for a process whose parent is gone
_LOOK = 1.0

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


@contextmanager
def ending_with_parent(name: str) -> Iterator[None]:
    """Ask this process to stop when the process that started it is gone, and end it some seconds later.

    The request is a SIGTERM: whoever catches it saves first. Orphans of a launcher that was killed would go on beside
    the run that takes their place. Nothing on Windows, where a process does not learn of its parent's end.

    Args:
        name: of the parent, for the log.
    """
    if os.name != "posix":
        yield
        return
    parent, left = first_parent(), threading.Event()  # it may have died while this process imported

    def watch() -> None:
        while os.getppid() == parent:
            if left.wait(_LOOK):
                return
        # From a thread of its own, since it may be the parent who read this process's messages.
        text = f"{name} is gone (process {parent}): this process saves what it can and stops"
        told = threading.Thread(target=get_logger().warning, args=("%s", text), daemon=True)
        told.start()
        told.join(_LOOK)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(EXIT_CODES[signal.SIGTERM])

    threading.Thread(target=watch, daemon=True, name="parent").start()
    try:
        yield
    finally:
        left.set()
