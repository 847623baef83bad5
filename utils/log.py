"""The logger ``focalsr``: plain lines on the console and, in a run, in its log file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.files import make_folder, storage_error
from utils.progress import console_line
from utils.terminal import Colour, painted

FORMAT = "%(asctime)s %(levelname)s: %(message)s"
PASSING = "passing"  # set in the ``extra`` of a line about progress, which is of no use later


def get_logger() -> logging.Logger:
    """The project's logger; nothing is configured until :func:`configure_logging`."""
    return logging.getLogger("focalsr")


def configure_logging(file: Path | None = None, *, rank: int = 0) -> logging.Logger:
    """Send the log to the console and to ``file``; ranks other than 0 only show warnings.

    May be called again in the same process: earlier handlers are closed first. The file begins with what
    :func:`copied_log` has kept.
    """
    logger = get_logger()
    copies = [handler for handler in logger.handlers if isinstance(handler, LogCopy)]
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handlers: list[logging.Handler] = [_ConsoleHandler()]
    if file is not None and rank == 0:
        make_folder(file.parent)
        try:
            handlers.append(_LogFile(file, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise storage_error(file, error) from error
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)
    for copy in copies:
        if len(handlers) == 1:
            logger.addHandler(copy)  # goes on, for there is no file yet
        for record in copy.records if len(handlers) > 1 else ():
            handlers[-1].handle(record)
    return logger


@contextmanager
def held_back(records: list[logging.LogRecord]) -> Iterator[None]:
    """Append what is logged to ``records`` instead of writing it, but for lines about progress."""
    logger = get_logger()
    handlers = list(logger.handlers)
    logger.handlers = [_Keeper(records, handlers)]
    try:
        yield
    finally:
        logger.handlers = handlers


def write_records(records: Iterable[logging.LogRecord]) -> None:
    """Write what was collected, with the time at which it was logged."""
    for record in records:
        get_logger().handle(record)


class LogCopy(logging.Handler):
    """A copy of what is logged before a run has its log file; nothing but the console has it until then."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


@contextmanager
def copied_log() -> Iterator[None]:
    """Keep a copy of what is logged, for the log file that :func:`configure_logging` begins within the block."""
    logger = get_logger()
    if any(isinstance(handler, LogCopy) for handler in logger.handlers):
        yield  # what is kept already begins earlier
        return
    copy = LogCopy()
    logger.addHandler(copy)
    try:
        yield
    finally:
        logger.removeHandler(copy)


class _Keeper(logging.Handler):
    """Keeps records; those about progress go on to the handlers in whose place it is."""

    def __init__(self, records: list[logging.LogRecord], handlers: list[logging.Handler]) -> None:
        super().__init__()
        self.records, self.handlers = records, handlers

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, PASSING, False):
            self.records.append(record)
            return
        for handler in self.handlers:
            handler.handle(record)


class _LogFile(logging.FileHandler):
    """Loses lines where the disk is full, and says so once: the console has them, and other files see to themselves."""

    _silent = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's own name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._silent:
            self._silent = True
            get_logger().warning("%s; until that works again its lines are on the console alone", self._fault(error))

    def close(self) -> None:
        """Close the file; lines that cannot be written even now are lost."""
        try:
            super().close()
        except OSError as error:
            if not self._silent:
                console_line(f"warning: {self._fault(error)}; its last lines were on the console alone", sys.stderr)

    def _fault(self, error: OSError) -> object:
        return storage_error(Path(self.baseFilename), error)


class _ConsoleHandler(logging.Handler):
    """Writes to the standard error of the moment, around a progress bar if one is drawn; in colours on a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        colour = _colour(record.levelno)
        if colour is not None:  # the level alone: messages of several lines stay readable
            mark = f" {record.levelname}: "
            line = line.replace(mark, f" {painted(mark.strip(), colour, sys.stderr)} ", 1)
        if not console_line(line, sys.stderr):
            get_logger().warning("the console is gone; the run goes on, and its log file has the rest")


def _colour(level: int) -> Colour | None:
    if level >= logging.ERROR:
        return "red"
    return "yellow" if level >= logging.WARNING else None
