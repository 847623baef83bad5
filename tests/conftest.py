"""What all tests share."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from utils.log import get_logger

# A busy machine is slow now and then; that says nothing about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# What a terminal of the person or service that runs the tests asks for; the tests look at text without colours.
for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
    os.environ.pop(name, None)

# nohup and shells' background jobs ignore signals, and what a test starts would too.
for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL), ("SIGTERM", signal.SIG_DFL)):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), usual)


def pytest_collection_finish() -> None:
    """Imports and collected tests stay, millions of objects: no search for garbage looks through them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data: golden outputs, published weights, benchmark images; tests that need it skip without it."""
    folder = os.environ.get("FOCALSR_SHARED")
    if not folder:
        pytest.skip("FOCALSR_SHARED does not name the folder of the reference data")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"FOCALSR_SHARED names {path}, which is no folder")
    return path


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """Pytest's folder of a test, with a space in its path as folders of users have: nothing may split it into words."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    return folder


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The messages that are logged during a test."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = get_logger()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def fresh_logger() -> Iterator[None]:
    """A command that a test runs in this process leaves no log handlers behind."""
    yield
    logger = get_logger()
    for handler in list(logger.handlers):
        if handler.__class__.__module__.startswith(("utils.", "logging")):
            logger.removeHandler(handler)
            handler.close()
    logger.propagate = True
