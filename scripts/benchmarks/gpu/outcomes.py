"""A plugin of pytest that writes what became of each test: ``-p scripts.benchmarks.gpu.outcomes --outcomes FILE``.

It does so as soon as it is known, so that a run that is stopped keeps what it has found out. One line of JSON a test:
its name, what became of it, how long it took, and the last lines of what went wrong.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

OPTION = "--outcomes"
_LAST = 15  # lines of a failure


class Outcome(NamedTuple):
    """What became of a test.

    Attributes:
        name: pytest's.
        outcome: "passed", "failed" or "skipped".
        seconds: it took.
        lines: the last ones of a failure, or why it was skipped.
    """

    name: str
    outcome: str
    seconds: float
    lines: str


def pytest_addoption(parser: pytest.Parser) -> None:
    """The file to write."""
    parser.addoption(OPTION, metavar="FILE", help="write what becomes of each test, line by line")


def pytest_configure(config: pytest.Config) -> None:
    """Start an empty file, in the process that hears of all tests."""
    file = config.getoption(OPTION)
    if file and not hasattr(config, "workerinput"):
        Path(file).write_text("", encoding="utf-8")
        config.pluginmanager.register(_Writer(Path(file)))


class _Writer:
    """Appends a line for each test."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A part of a test is over: its call, or a preparation or an ending that did not pass."""
        if report.when == "call" or not report.passed:
            self._write(report.nodeid, report.outcome, report.duration, report.longreprtext)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file of tests that cannot be read."""
        if report.failed:
            self._write(report.nodeid, "failed", 0.0, report.longreprtext)

    def _write(self, name: str, outcome: str, seconds: float, text: str) -> None:
        lines = "\n".join(text.rstrip().splitlines()[-_LAST:])
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(Outcome(name, outcome, round(seconds, 2), lines)._asdict()) + "\n")


def read_outcomes(file: Path) -> list[Outcome]:
    """What a run has written; the last line may be half of one."""
    if not file.exists():
        return []
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(Outcome(**json.loads(line)))
        except ValueError:
            continue
    return found
