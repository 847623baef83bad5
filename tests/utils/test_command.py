"""Exit codes and messages; signals as requests."""

from __future__ import annotations

import errno
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils.command import run_command
from utils.errors import InputError, RunError, StopRequested, StorageError, WorkerError
from utils.log import configure_logging, get_logger
from utils.memory import FullMemoryError
from utils.signals import catch_signals


@pytest.fixture(autouse=True)
def no_handlers() -> Iterator[None]:
    """Leave the logger as a fresh process has it."""
    yield
    for handler in list(get_logger().handlers):
        get_logger().removeHandler(handler)
        handler.close()
    get_logger().propagate = True


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("scale: expected 4"), 2),
        (StorageError("the disk is full"), 1),
        (ArithmeticError("the loss is not finite"), 1),
        (StopRequested("stopped", 143), 143),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1),
        (WorkerError("a process that prepares batches ended"), 1),
        (RunError("an image was damaged"), 1),
        (FullMemoryError("the memory is full: a batch"), 1),
        (MemoryError(), 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 1),
        (RuntimeError("could not create a primitive"), 1),
    ],
)
def test_each_error_has_its_exit_code_and_no_traceback(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: object) -> None:
        raise error

    assert run_command(main, []) == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_full_memory_and_a_full_disk_are_said_with_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    def full_memory(argv: object) -> None:
        raise RuntimeError("[enforce fail at a.cpp:1] err == 0. DefaultCPUAllocator: can't allocate memory: you tried")

    def full_disk(argv: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/a.png")

    def broken_disk(argv: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/data/b.png")

    def broken_somewhere(argv: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    assert run_command(full_memory, []) == run_command(full_disk, []) == 1
    assert run_command(broken_disk, []) == run_command(broken_somewhere, []) == 1
    printed = capsys.readouterr().err
    assert "/data/b.png could not be read or written, its disk is at fault: Input/output error" in printed
    assert "a file could not be read or written, its disk is at fault: Stale file handle" in printed
    assert "Traceback" not in printed
    assert "the memory is full (DefaultCPUAllocator: can't allocate memory: you tried). What helps: " in printed
    assert "the disk is full: /data/a.png could not be written; free some space" in printed


def test_exit_code_is_that_of_main_or_0() -> None:
    assert run_command(lambda argv: None, []) == 0
    assert run_command(lambda argv: 1, []) == 1


def test_an_unexpected_exception_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def main(argv: object) -> None:
        raise RuntimeError("broken invariant")

    assert run_command(main, []) == 1
    assert "fault of the program" in caplog.text
    assert "broken invariant" in caplog.text


def test_error_messages_go_to_the_log_where_one_is_configured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.log"
    configure_logging(file)

    def main(argv: object) -> None:
        raise InputError("scale: expected 4")

    assert run_command(main, []) == 2
    assert "ERROR: scale: expected 4" in file.read_text()
    assert capsys.readouterr().err.count("expected 4") == 1


def test_a_full_disk_loses_log_lines_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = configure_logging(tmp_path / "run.log")
    handler = logger.handlers[-1]
    assert isinstance(handler, logging.FileHandler)

    def full(text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(handler.stream, "write", full)
    logger.info("a line")
    logger.info("another")
    logger.info("and one more")
    first, *others = [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert (first, others[1:]) == ("a line", ["another", "and one more"])
    assert others[0].startswith(f"the disk is full: {tmp_path / 'run.log'} could not be written")
    configure_logging()  # which closes it
    assert "Traceback" not in capsys.readouterr().err


def test_ranks_other_than_0_log_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    logger = configure_logging(rank=1)
    logger.info("one of many")
    logger.warning("attention")
    assert capsys.readouterr().err.endswith("WARNING: attention\n")
    assert logger.level == logging.WARNING


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_sets_a_flag_and_restores_the_handlers(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with catch_signals() as stop:
        assert not stop
        assert stop.exit_code == 0
        signal.raise_signal(number)
        assert stop
        assert stop.exit_code == code
        assert signal.getsignal(number) == before  # a second one interrupts at once
    assert signal.getsignal(number) == before
