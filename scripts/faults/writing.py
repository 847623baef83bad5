"""Disks that fail under a run: writes, flushes or closes of its files raise what a full or broken disk raises.

Only in the process that calls :func:`install`, which is a child of the soak: the code of the training knows nothing of
it. The files are real ones whose last layer, the one that calls the system, fails.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Call = Literal["write", "fsync", "close"]


@dataclass(frozen=True)
class WriteFault:
    """What fails, how, and when.

    Attributes:
        call: of the system, which fails.
        code: of the error: ENOSPC, EDQUOT or EIO.
        after: bytes that the run can write before; from then on the call always fails.
    """

    call: Call
    code: int
    after: int

    def error(self) -> OSError:
        """What the system would raise."""
        return OSError(self.code, os.strerror(self.code))


class _Disk:
    """Counts what is written and fails when it is full."""

    def __init__(self, fault: WriteFault) -> None:
        self.fault, self.written = fault, 0

    def check(self, call: Call, count: int = 0) -> None:
        self.written += count
        if call == self.fault.call and self.written > self.fault.after:
            raise self.fault.error()


class _File(io.FileIO):
    """A file on such a disk."""

    disk: _Disk

    def write(self, data: Any, /) -> int:
        self.disk.check("write", memoryview(data).nbytes)
        return super().write(data)

    def close(self) -> None:
        opened = not self.closed
        super().close()
        if opened:
            self.disk.check("close")


def install(fault: WriteFault, folder: Path) -> None:
    """Let what this process writes below ``folder`` fail from now on."""
    disk, root, plain, fsync = _Disk(fault), f"{folder}{os.sep}", io.open, os.fsync

    def opened(file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
               *more: Any, **named: Any) -> Any:  # fmt: skip
        ours = isinstance(file, str | os.PathLike) and os.path.abspath(file).startswith(root)  # noqa: PTH100
        if not ours or not set(mode) & set("wax+"):
            return plain(file, mode, buffering, encoding, *more, **named)
        raw = _File(file, mode.replace("b", "").replace("t", ""))
        raw.disk = disk
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, line_buffering=buffering == 1)

    def flushed(descriptor: int) -> None:
        disk.check("fsync")
        fsync(descriptor)

    patches: dict[Any, dict[str, Callable[..., Any]]] = {
        builtins: {"open": opened}, io: {"open": opened}, os: {"fsync": flushed},
    }  # fmt: skip
    for module, functions in patches.items():
        for name, function in functions.items():
            setattr(module, name, function)


FULL, QUOTA, BROKEN = errno.ENOSPC, errno.EDQUOT, errno.EIO
