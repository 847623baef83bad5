"""What a check logs is held back until its verdict is known; lines about progress are not."""

from __future__ import annotations

import logging

import pytest

from utils.log import PASSING, configure_logging, held_back, write_records


def test_what_is_held_back_is_written_later_but_for_progress(capsys: pytest.CaptureFixture[str]) -> None:
    log = configure_logging()
    records: list[logging.LogRecord] = []
    with held_back(records):
        log.info("a result")
        log.info("half of it", extra={PASSING: True})
        log.warning("a warning")
    assert [line.rsplit(": ", 1)[-1] for line in capsys.readouterr().err.splitlines()] == ["half of it"]
    log.info("the verdict")
    write_records(records)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rsplit(": ", 1)[-1] for line in lines] == ["the verdict", "a result", "a warning"]


def test_what_is_held_back_is_not_lost_when_something_is_raised(capsys: pytest.CaptureFixture[str]) -> None:
    log = configure_logging()
    records: list[logging.LogRecord] = []
    with pytest.raises(ValueError, match="no"), held_back(records):
        log.info("before")
        raise ValueError("no")
    log.info("after")
    assert [record.getMessage() for record in records] == ["before"]
    assert "after" in capsys.readouterr().err
