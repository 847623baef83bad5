"""Exit codes of the commands: 0 done, 1 failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper

from utils.errors import InputError, StopRequested, StorageError, WorkerError
from utils.files import DISK_FULL
from utils.log import get_logger
from utils.progress import console_line

_ASCII = ("ascii", "us-ascii", "ansi_x3.4-1968")


def run_command(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    r"""Run a command's ``main`` and return its exit code.

    What the user can fix is reported in one message without a traceback; anything else is a bug and is logged with its
    traceback. What the console cannot show, of names of files above all, is written as ``\xfc``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return main(sys.argv[1:] if argv is None else argv) or 0
    except InputError as error:
        return _report(str(error), 2)
    except StopRequested as stop:
        return _report(str(stop), stop.exit_code)
    except (StorageError, WorkerError, ArithmeticError, MemoryError) as error:
        return _report(str(error) or type(error).__name__, 1)
    except UnicodeEncodeError as error:
        if error.encoding not in _ASCII:
            return _fault()
        return _report(f"the name {error.object!r} cannot be a path", 2)
    except OSError as error:
        if error.errno not in DISK_FULL:
            return _fault()
        return _report("the disk is full; free some space and resume", 1)
    except KeyboardInterrupt:
        return _report("interrupted", 130)
    except Exception:  # noqa: BLE001  the last line of defence: logged with its traceback, never swallowed
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
