"""Files that grow by a record at a time: each is on its way to the disk when the call returns."""

from __future__ import annotations

from pathlib import Path

from utils.files import make_folder, storage_error


class RecordFile:
    """A file to which records are appended; nothing is held back in a buffer, so that a killed run loses none.

    Args:
        path: made, with its folder, where it does not exist.

    Raises:
        StorageError: the disk is full or broken; likewise in each call.
        InputError: the file cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path.parent)
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise storage_error(path, error) from error

    def write(self, record: bytes) -> None:
        """Append a record."""
        rest = memoryview(record)
        try:
            while rest:  # of a disk that is nearly full only a part is written, and the next attempt says why
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise storage_error(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:  # where network file systems report what they could not write
            raise storage_error(self.path, error) from error
