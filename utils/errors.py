"""Errors sorted by who can fix them; the commands turn these into exit codes."""

from __future__ import annotations


class InputError(ValueError):
    """The user gave something that cannot be used: an option, a path, a file, a value.

    The message alone must be enough: it names the file, key or value, says what was expected and what to do.
    The commands print it without a traceback and leave with exit code 2.
    """


class StorageError(OSError):
    """Writing failed (disk full or broken); what was there before is untouched.

    The commands print the message without a traceback and leave with exit code 1.
    """


class WorkerError(RuntimeError):
    """A worker process of the data loader died, for instance because memory ran out, or cannot hand over its batches.

    The commands print the message without a traceback and leave with exit code 1.
    """


class RunError(RuntimeError):
    """What a run depends on could be used when it began and no longer can: an image was damaged, a folder is gone.

    The commands print the message without a traceback and leave with exit code 1.
    """


class StopRequested(Exception):  # noqa: N818  not an error: the run was asked to leave
    """A signal asked a run to stop; its state is saved.

    Attributes:
        exit_code: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
