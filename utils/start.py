"""What a program does first, before the imports that take seconds; imports nothing but a little of Python's own."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_before: dict[signal.Signals, Any] = {}  # signal -> what handled it before start()
_parents: dict[int, int] = {}  # this process -> what it was started by
_paused: set[int] = set()  # this process, while it collects no garbage


def start() -> None:
    """Prepare a process for what may happen before its own work begins, and after it has ended.

    Ctrl-C, SIGTERM and SIGHUP end it at once with 130, 143 and 129, in place of a traceback from the middle of an
    import; :func:`usual_signals` is for the work itself. Streams that are closed (``>&-``) lead nowhere, so that no
    file that is opened later takes their numbers and gets what libraries print.

    No garbage is collected before :func:`imported`: imports make 260,000 objects that stay, and looking through all
    of them again and again takes a tenth of their time.
    """
    if gc.isenabled():
        gc.disable()
        _paused.add(os.getpid())
    _parents[os.getpid()] = os.getppid()
    _open_streams()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            _before[number] = signal.signal(number, _leave)  # what is ignored stays so: nohup


def imported() -> None:
    """Collect garbage again, after :func:`start`; what the imports have made is left out from here on.

    A collection in the middle of a training would look through all of it for nothing.
    """
    if os.getpid() in _paused:
        _paused.clear()
        gc.freeze()
        gc.enable()


def first_parent() -> int:
    """The process that started this one, which may be gone since :func:`start`; without that, the parent now."""
    return _parents.get(os.getpid(), os.getppid())


@contextmanager
def usual_signals() -> Iterator[None]:
    """Within it signals do what they did before :func:`start`: Ctrl-C raises KeyboardInterrupt."""
    for number, handler in _before.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in _before:
            signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    with suppress(OSError):
        os.write(2, f"error: {'interrupted' if name == 'SIGINT' else f'stopped by {name}'}\n".encode())
    os._exit(128 + number)


def _open_streams() -> None:
    for number, mode in ((0, "r"), (1, "w"), (2, "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            name = ("stdin", "stdout", "stderr")[number]
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  for as long as the process lives
