"""Folders that one process has to itself: a training its experiment, a test its results, preparation its target.

The lock is a hidden file beside the folder, ``.NAME.lock``, because a run that starts anew renames the folder of an
earlier one, and because it must be held before anything is looked at, renamed or written. It says who has it. What
protects it, in this order:

1. ``flock``: the system releases it when the process ends, however that happens. NFS passes it on to its server (Linux
   2.6.12 and later).
2. Where a file system has no locks, and on Windows: the file itself, which only one process can create; one whose
   process is gone is stale.
3. Some network file systems lock within one machine only. So the owner touches the file every few seconds, and a
   process that finds the file of another machine watches it for a while. No clocks are compared.

Processes that are forked meanwhile (workers of a data loader) inherit open files; they close this one at once, so that
one that outlives its parent blocks nobody.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path

from utils.errors import InputError
from utils.files import lock, make_folder, storage_error
from utils.log import get_logger

BEAT = 5.0  # seconds between two touches
SILENCE = 20.0  # seconds without a touch after which the owner is gone
_ABANDONED = 3600.0  # no clock is wrong by more, and nobody is silent for so long: no need to watch
_LOOK = 0.2
_WRITING = 2.0  # seconds within which a process that has created the file writes its name into it
_LONGEST = 255  # bytes of a file's name


@dataclass(frozen=True)
class Owner:
    """Who has a lock.

    Attributes:
        host: the machine's name, for people.
        pid: the process.
        since: local time, with its distance from UTC.
        machine: tells machines, their restarts, and containers apart.
        started: when the process began; tells it from a later one with the same number.
    """

    host: str
    pid: int
    since: str
    machine: str
    started: str

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}, since {self.since}"


@contextmanager
def exclusive(folder: Path, doing: str, *, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes from ``folder``, which may not exist yet, may be renamed, and need not be the last to go.

    Args:
        folder: what is to be used by this process alone.
        doing: what it does there, for the message to the other process: "trains".
        patience: seconds to wait for a process that has the lock.

    Raises:
        InputError: another process has it, or no file can be made there.
        StorageError: the disk is full or broken.
    """
    # A folder that is made here for the lock's sake goes again if nothing was put into it: bad input leaves no trace.
    try:
        made = list(takewhile(lambda parent: not parent.exists(), folder.parents))
    except OSError as error:
        raise storage_error(folder, error) from error
    make_folder(folder.parent)
    try:
        held = _wait_for(lock_file(folder), folder, doing, patience)
        try:
            yield
        finally:
            held.release()
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # not empty
                parent.rmdir()


def lock_file(folder: Path) -> Path:
    """Where the lock of a folder is: beside it; inside where nothing can be written beside it, so nothing renamed."""
    name = f".{folder.name}.lock"
    if len(os.fsencode(name)) > _LONGEST:
        name = f".{hashlib.sha256(os.fsencode(folder.name)).hexdigest()}.lock"
    within = folder if not os.access(folder.parent, os.W_OK) and folder.is_dir() else folder.parent
    return within.resolve() / name


def this_process() -> Owner:
    """This process, as others recognise it."""
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    return Owner(platform.node(), os.getpid(), now, _machine(), _started(os.getpid()))


def has_ended(owner: Owner) -> bool | None:
    """Whether a process has ended; None where that cannot be asked: of another machine, and on Windows."""
    if owner.machine != _machine() or sys.platform == "win32":  # where asking by os.kill would end it
        return None
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, and is another user's
        pass
    return owner.started != _started(owner.pid)


class _Held:
    """A lock that this process has.

    Args:
        path: its file.
        handle: the open file, locked; None where the file alone is the lock.
        owner: this process.
    """

    def __init__(self, path: Path, handle: int | None, owner: Owner) -> None:
        self.path, self.handle, self.owner = path, handle, owner
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="lock")
        self._beating.start()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # the machine may be out of reach for a while, or the file be removed
                os.utime(self.path)

    def release(self) -> None:
        """Remove the file and let others in; in a forked process nothing, since the lock is its parent's."""
        if self.owner.pid != os.getpid():
            return
        self._ended.set()
        self._beating.join()
        with _registry.changing:
            _registry.held.pop(self.path, None)
        if _content(self.path) == self.owner:
            with contextlib.suppress(OSError):  # gone, or in a folder that was made unwritable: stale, for the next
                self.path.unlink()
        if self.handle is not None:
            os.close(self.handle)


class _Registry:
    """The locks of this process, for its other threads and its children."""

    def __init__(self) -> None:
        self.held: dict[Path, _Held] = {}
        self.changing = threading.Lock()
        self.known_to_fork = False

    def add(self, held: _Held) -> None:
        with self.changing:
            self.held[held.path] = held
            if not self.known_to_fork and hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._in_child)
            self.known_to_fork = True

    def _in_child(self) -> None:
        self.changing = threading.Lock()
        for held in self.held.values():
            if held.handle is not None:
                os.close(held.handle)
        self.held = {}


_registry = _Registry()


def _wait_for(path: Path, folder: Path, doing: str, patience: float) -> _Held:
    deadline = time.monotonic() + patience
    waits = False
    while True:
        try:
            found = _attempt(path, doing)
        except OSError as error:
            raise storage_error(path, error) from error
        if isinstance(found, _Held):
            return found
        who = f"another process {doing} here" + ("" if found is None else f" ({found})")
        if time.monotonic() >= deadline:
            raise InputError(
                f"{folder}: {who}; wait until it has ended, or choose another name. If that process is known to be "
                f"gone, remove {path}"
            )
        if not waits:
            get_logger().warning("%s: %s; waiting up to %.0f s for its end", folder, who, patience)
            waits = True
        time.sleep(_LOOK)


def _attempt(path: Path, doing: str) -> _Held | Owner | None:
    """The lock; else who has it, as far as that is known."""
    while True:
        with _registry.changing:
            mine = _registry.held.get(path)
        if mine is not None:
            return mine.owner
        handle, created, ours = _opened(path)
        locked = lock(handle)
        keep = False
        try:
            left = None if created else _named(path)
            if locked is False or _is_of_somebody(left, path, exact=locked is None):
                return left
            if not _is_at(path, handle):
                continue  # its owner has just ended
            if locked and not ours:
                _set_aside(path, left)
                continue
            if left is not None:
                get_logger().info("the process that %s here before (%s) ended without saying so", doing, left)
            keep = bool(locked)
            if keep or created:
                held = _Held(path, handle if keep else None, _sign(handle))
                _registry.add(held)
                return held
        finally:
            if not keep:
                os.close(handle)
        _set_aside(path, left)


def _opened(path: Path) -> tuple[int, bool, bool]:
    """The open file, whether it was created just now, and whether it can be written: another user's can be read only.

    No link is followed: folders of several users hold locks.
    """
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        try:
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True, True
        except FileExistsError:
            pass
        except FileNotFoundError:  # another process has ended, and taken the empty folder with it
            make_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):  # its owner has just ended
            try:
                return os.open(path, flags), False, True
            except PermissionError:
                return os.open(path, flags & ~os.O_RDWR | os.O_RDONLY), False, False


def _is_of_somebody(left: Owner | None, path: Path, *, exact: bool) -> bool:
    """Whether a file that was found has an owner who lives.

    Args:
        left: who wrote it.
        path: the file.
        exact: nothing but the file tells; else its lock could be had, so that nobody on this machine has it.
    """
    if left is None:
        return False
    if left.machine == _machine() and not exact:
        return False
    ended = has_ended(left)
    return _beats(path, left) if ended is None else not ended


def _beats(path: Path, left: Owner) -> bool:
    """Whether somebody touches the file; waits until that is known."""
    first = _touched(path)
    if first is None or time.time() - first > _ABANDONED:
        return False
    get_logger().warning("%s is of %s: looking for %.0f s whether that process lives", path, left, SILENCE)
    deadline = time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        time.sleep(_LOOK)
        now = _touched(path)
        if now != first:
            return now is not None
    return False


def _touched(path: Path) -> float | None:
    """When; opened for it, because network file systems ask their server only then. None: the file is gone."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _set_aside(path: Path, left: Owner | None) -> None:
    """Remove a stale file that is the lock itself; of several processes that do so at once, one takes its place."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _content(aside) != left and not path.exists():  # somebody was quicker, and this is his
        aside.rename(path)
    else:
        aside.unlink()


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _named(path: Path) -> Owner | None:
    """Who has written the file; waits a little for one who is about to."""
    deadline = time.monotonic() + _WRITING
    while True:
        found = _content(path)
        if found is not None or time.monotonic() > deadline or not path.exists():
            return found
        time.sleep(_LOOK / 4)


def _content(path: Path) -> Owner | None:
    try:
        value = json.loads(path.read_bytes())
        return Owner(**{field.name: value[field.name] for field in dataclasses.fields(Owner)})
    except (OSError, ValueError, KeyError, TypeError):  # gone, empty, or written by a hand
        return None


def _sign(handle: int) -> Owner:
    """Write into the file that it is this process's."""
    own = this_process()
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, (json.dumps(dataclasses.asdict(own)) + "\n").encode())
    os.fsync(handle)  # for those on other machines
    return own


def _machine() -> str:
    """The machine since its last start, and within it the container, which counts processes from 1 again."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    return platform.node()


def _started(pid: int) -> str:
    """When a process was started, in ticks since the machine was; empty where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]  # after the name, which may hold spaces and brackets
