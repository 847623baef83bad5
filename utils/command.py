"""Exit codes of the commands: 0 done, 1 failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper

from utils.errors import InputError, RunError, StopRequested, StorageError, WorkerError
from utils.files import DISK_BROKEN, DISK_FULL
from utils.log import get_logger
from utils.memory import FullMemoryError, memory_is_full, reason_of
from utils.progress import console_line
from utils.start import imported, usual_signals
from utils.terminal import abandon, nobody_reads

_PIPE_CLOSED = 141  # as shells report a program that SIGPIPE has ended

_ASCII = ("ascii", "us-ascii", "ansi_x3.4-1968")


def run_command(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    r"""Run a command's ``main`` and return its exit code.

    What the user can fix is reported in one message without a traceback; anything else is a bug and is logged with its
    traceback. Where nobody reads the standard output any more (``| head -1``), it ends silently with 141. What the
    console cannot show, of names of files above all, is written as ``\xfc``.
    """
    imported()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def piped(argv: Sequence[str]) -> int | None:
        try:
            return main(argv)
        except BrokenPipeError:
            if not nobody_reads(sys.stdout):  # another pipe
                raise
            return _PIPE_CLOSED

    with usual_signals():
        try:
            code = _exit_code(piped, argv)
        except SystemExit:  # argparse: --help, or a mistake
            _flushed(0)
            raise
        return _flushed(code)


def _flushed(code: int) -> int:
    """Write what is left of the standard output; the exit code, another one where that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _PIPE_CLOSED
    except OSError as error:
        code = _report(f"the standard output could not be written: {error.strerror}", 1)
    else:
        return code
    abandon(sys.stdout)
    return code


def _exit_code(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None) -> int:
    try:
        return main(sys.argv[1:] if argv is None else argv) or 0
    except InputError as error:
        return _report(str(error), 2)
    except StopRequested as stop:
        return _report(str(stop), stop.exit_code)
    except (StorageError, WorkerError, RunError, ArithmeticError, FullMemoryError) as error:
        return _report(str(error) or type(error).__name__, 1)
    except UnicodeEncodeError as error:
        if error.encoding not in _ASCII:
            return _fault()
        return _report(f"the name {error.object!r} cannot be a path", 2)
    except KeyboardInterrupt:
        return _report("interrupted", 130)
    except Exception as error:  # noqa: BLE001  the last line of defence: logged with its traceback, never swallowed
        if memory_is_full(error):
            return _report(
                f"the memory is full ({reason_of(error)}). What helps: smaller work, fewer processes, or closing other "
                "programs", 1,
            )  # fmt: skip
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            where = f": {error.filename} could not be written" if error.filename else ""
            return _report(f"the disk is full{where}; free some space and resume", 1)
        if isinstance(error, OSError) and error.errno in DISK_BROKEN:
            where = str(error.filename) if error.filename else "a file"
            return _report(f"{where} could not be read or written, its disk is at fault: {error.strerror}", 1)
        return _fault()


def _fault() -> int:
    get_logger().exception("this is a fault of the program; please report it with the lines below")
    return 1


def _report(message: str, code: int) -> int:
    """Log a message (the console shows it too), or print it to the standard error where no log is configured."""
    if ("\\udc" in message or not message.isascii()) and sys.getfilesystemencoding() in _ASCII:
        message += " (this Python takes the names of files for ASCII; what helps: PYTHONUTF8=1 in the environment)"
    logger = get_logger()
    if any(isinstance(handler, logging.Handler) for handler in logger.handlers):
        logger.error("%s", message)
    else:
        console_line(f"error: {message}", sys.stderr)
    return code
