"""Other programs, run so that none of them can hold this one up: without a terminal, and with a limit."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_LOOK = 0.1  # seconds between two looks at whether a program is to be ended
_GRACE = 0.5  # seconds that a program has, after SIGTERM, to remove its own temporary files


class Finished(NamedTuple):
    """What a program that has ended left: its exit code (minus the number of the signal that ended it) and output."""

    code: int
    out: str
    err: str


def run_program(
    command: Sequence[str],
    *,
    limit: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    given: bytes | None = None,
    watch: Callable[[], None] = lambda: None,
) -> Finished:
    """Run a program to its end.

    It runs in a session of its own: Ctrl-C on the terminal reaches this process, which ends the program and all that
    it has started, whatever exception leaves this function.

    Args:
        command: the program and its arguments.
        limit: seconds that it may take.
        cwd: folder to run it in.
        env: its variables; those of this process by default.
        given: its standard input, which is empty by default and never the terminal.
        watch: called ten times a second while the program runs; what it raises ends the program.

    Raises:
        subprocess.TimeoutExpired: it did not end within the limit, and was ended.
        OSError: it could not be started.
    """
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + limit
    try:
        while True:
            try:
                out, err = process.communicate(given, timeout=_LOOK)
                return Finished(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
            except subprocess.TimeoutExpired:
                given = None  # it has it, or will get it in the next round
            watch()
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(command, limit)
    except BaseException:
        end_program(process)
        raise


def end_program(process: subprocess.Popen[bytes]) -> None:
    """End a program that leads a session, with what it has started, and close its pipes; returns within seconds."""
    try:
        _send(process, signal.SIGTERM)
        _wait(process)
    finally:  # a second Ctrl-C included
        _send(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        _wait(process)  # one that waits for a lost file system cannot even be killed
        for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
            with suppress(OSError):
                pipe.close()


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    if not hasattr(os, "killpg"):
        process.kill()
        return
    with suppress(ProcessLookupError, PermissionError):  # nobody is left in its session
        os.killpg(process.pid, number)


def _wait(process: subprocess.Popen[bytes]) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
