"""What tests of the kernel cache share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import build
from ops.registry import ENVIRONMENT
from utils.log import get_logger
from utils.trust import CACHE


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of this test's own, and a process that has asked for nothing yet."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    build.ask_again()
    yield tmp_path / "cache" / "ops"
    build.ask_again()


@pytest.fixture
def log() -> Iterator[list[tuple[int, str]]]:
    lines: list[tuple[int, str]] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((record.levelno, record.getMessage()))  # type: ignore[method-assign]
    logger, level = get_logger(), get_logger().level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)
