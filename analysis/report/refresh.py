"""Keeping the page of a training run up to date while it trains, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from models.training.sinks import TrainRecord, ValidationRecord
from utils.log import get_logger

NAME = "report.html"
_PROGRAM = Path(__file__).resolve().parents[2] / "scripts" / "report.py"
_PATIENCE = 120.0  # seconds that the end of a run waits for its last page
_NICE = 10  # training goes first
_STOPPED = (130, 143, -2, -15)  # by the signal that stops the run


class PageOfRun:
    """A sink of a training run (:class:`models.training.sinks.Sink`) that makes ``report.html`` after each validation.

    The page is made by ``scripts/report.py`` in a process of low priority, so that the training neither waits for it
    nor fails with it; a page that cannot be made is a warning, and the next validation tries again. While a page is
    being made no second one is begun: it follows when the first is done.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._printed: IO[bytes] | None = None
        self._due = self._made = False

    def training(self, record: TrainRecord) -> None:
        """An iteration: a moment to begin a page that had to wait."""
        self._advance()

    def validation(self, record: ValidationRecord) -> None:
        """A data set was scored: the page is to be made anew."""
        self._due = True
        self._advance()

    def close(self) -> None:
        """Wait for the last page, but not without end; where the run ends by an exception, not at all."""
        if sys.exc_info()[0] is None:
            end = time.monotonic() + _PATIENCE
            self._wait(end)
            self._advance()
            self._wait(end)
        if self._made:
            get_logger().info("the page of the run is %s", self.folder / NAME)

    def _wait(self, end: float) -> None:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, end - time.monotonic()))
            self._collect()

    def _advance(self) -> None:
        """Look whether the page that is being made is done, and begin the one that is due."""
        self._collect()
        if not self._due or self._process is not None:
            return
        self._due = False
        arguments = [sys.executable, str(_PROGRAM), str(self.folder), "-o", str(self.folder / NAME)]
        try:
            self._printed = tempfile.TemporaryFile()  # noqa: SIM115  a pipe would have to be read
        except OSError as error:
            self._warn(error.strerror or str(error))
            return
        try:
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._printed,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        except OSError as error:
            self._printed.close()
            self._warn(error.strerror or str(error))
            return
        if hasattr(os, "setpriority"):
            with contextlib.suppress(OSError):  # it has ended already
                os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)

    def _collect(self) -> None:
        """Forget a process that has ended; warn where it failed."""
        if self._process is None or self._process.poll() is None:
            return
        code, self._process = self._process.returncode, None
        assert self._printed is not None
        with self._printed as printed:
            printed.seek(0)
            lines = printed.read().decode(errors="replace").strip().splitlines()
        self._made |= code == 0
        if code and code not in _STOPPED:
            self._warn(lines[-1].removeprefix("error: ") if lines else f"exit code {code}")

    def _warn(self, reason: str) -> None:
        get_logger().warning("%s was not made anew, and the run goes on: %s", self.folder / NAME, reason)
