"""Keeps compiled kernels in a folder of the user, and compiles what is not there.

A build lives in a folder of the cache (``FOCALSR_CACHE``, or ``focalsr`` in the user's cache folder) named by a hash of
everything that decides about it: sources, commands, versions of torch and CUDA, compiler, processor. It is made in a
folder of its own and renamed when complete, so a build is there or not, whatever is killed in between. A file lock
makes other processes wait instead of compiling the same; the system drops it with the process that holds it. A failed
build leaves its messages in the cache and is not tried again until something in the hash changes, or
``FOCALSR_OPS=native`` asks for it.

Nothing is read, written or loaded where somebody other than the user and root could have put it. A compiler that hangs
has a time limit; Ctrl-C and SIGTERM end it at once, also where they are only noted for a safe point to come.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ops.registry import ENVIRONMENT, NATIVE, REFERENCE
from utils.env import available_cores
from utils.errors import InputError, StorageError
from utils.files import write_text
from utils.log import get_logger
from utils.programs import run_program
from utils.progress import Progress
from utils.signals import requested
from utils.trust import cache_root, private_folder, refuse_distrusted

SOURCES = Path(__file__).resolve().parent / "csrc"
_LIBRARY = "kernels.so"
_FAILURE = "failed.txt"
_LEAST_LIMIT, _LIMIT_FACTOR = 300.0, 20.0  # seconds, and times what is expected: a compiler that takes longer hangs
_FIRST_NOTE = 15.0  # seconds after which a message says that it still compiles
_GRACE, _HUNG_NOTE = 10.0, b"hung"  # seconds that whoever waits adds: who gives up first says so in the lock file
_REDRAWN = 0.2  # seconds between two pictures of the bar
_ABANDONED = 86400.0  # a working folder that old belongs to a process that was killed


@dataclass(frozen=True)
class BuildTarget:
    """How one library is made.

    Attributes:
        name: of the kernels, for people: "CPU smm", "CUDA smm".
        seconds: what compiling takes, roughly.
        steps: one command per source file, run in the folder of the sources; its object file is appended after ``-o``.
        link: the command that joins them; ``-o``, the library and the objects are inserted after its first word.
        facts: what else decides about the result: versions, processor, contents of the sources.
    """

    name: str
    seconds: int
    steps: tuple[tuple[str, ...], ...]
    link: tuple[str, ...]
    facts: tuple[str, ...]

    @property
    def limit(self) -> float:
        """Seconds after which its compiler is taken to hang, with room for a busy machine."""
        return max(_LEAST_LIMIT, _LIMIT_FACTOR * self.seconds)

    def key(self) -> str:
        """The hash in the name of the folder."""
        digest = hashlib.sha256()
        for words in (*self.steps, self.link, self.facts):
            digest.update("\0".join(words).encode() + b"\1")
        return digest.hexdigest()[:20]


class Unusable(Exception):  # noqa: N818  an answer to "why not", no failure of the program
    """One sentence why there are no compiled kernels."""


class _Interrupted(Unusable):
    """The build ended for a reason that need not come again: the compiler was killed, the disk is full."""


class _Hung(_Interrupted):
    """The compiler, or another process that compiles the same, did not end within the limit."""


class Stopped(_Interrupted):
    """A signal asked this process to leave."""


_hung: list[str] = []  # what hung in this process, which then compiles nothing more: each kernel would wait as long


def forget_hanging() -> None:
    """Let this process compile again, though a compiler hung in it."""
    _hung.clear()


def cache_folder() -> Path:
    """Where builds are kept."""
    return cache_root() / "ops"


def is_built(target: BuildTarget) -> bool:
    """Whether the library of a target is in the cache."""
    return os.path.exists(_folder(target) / _LIBRARY)  # noqa: PTH110  Path.exists raises where none may look


def libraries(targets: Sequence[BuildTarget], *, retry: bool = False, beside: Sequence[BuildTarget] = ()) -> list[Path]:
    """:func:`library` of each, compiled side by side; a bar shows the wait on a terminal.

    Args:
        targets: what is wanted.
        retry: see :func:`library`.
        beside: what is going to be wanted: compiled in the same time, and what goes wrong is said when it is asked for.
    """
    cancelled = threading.Event()
    one = functools.partial(library, retry=retry, cancelled=cancelled)
    missing = [target for target in (*targets, *beside) if not is_built(target)]
    with ThreadPoolExecutor(max(1, min(len(missing), available_cores()))) as pool, cancels(cancelled):
        wanted = [pool.submit(one, target) for target in targets]
        others = [pool.submit(library, target, cancelled=cancelled) for target in beside]
        if missing:
            _show([*wanted, *others], missing)
        return [future.result() for future in wanted]


def _show(building: Sequence[Future[Path]], missing: Sequence[BuildTarget]) -> None:
    """Draw a bar on a terminal until all are done; the log has lines about each."""
    names = ", ".join(target.name for target in missing)
    expected = sum(target.seconds for target in missing) / min(len(missing), available_cores())
    ready, started = len(building) - len(missing), time.monotonic()
    shown = get_logger().isEnabledFor(logging.INFO)  # not by each rank
    with Progress(len(missing), "compiling kernels, once", unit="files", shown=shown) as bar:
        waiting = set(building)
        while waiting:
            waiting = wait(waiting, _REDRAWN).not_done
            seconds = time.monotonic() - started
            bar.advance(
                done=max(0, len(building) - len(waiting) - ready),
                note=f"{names}  {seconds:.0f} s of about {expected:.0f}",
            )


def library(target: BuildTarget, *, retry: bool = False, cancelled: threading.Event | None = None) -> Path:
    """The compiled library of a target, built if it is not in the cache.

    Args:
        target: what to build.
        retry: build again where an earlier build failed.
        cancelled: set by another thread to end the build.

    Raises:
        Unusable: it cannot be built, now or in an earlier try.
        InputError: the cache cannot be written, or others could have put something there.
        StorageError: the disk is full or broken.
    """
    cache, folder = cache_folder(), _folder(target)
    refuse_distrusted(cache, cache)
    if not os.path.exists(folder / _LIBRARY):  # noqa: PTH110  Path.exists raises where a folder must not be looked into
        refuse_distrusted(private_folder(cache), cache)
        if not retry:
            _recall_failure(folder)
        if _hung:
            raise Unusable(f"none is compiled any more in this process, in which {_hung[0]}")
        cancelled = cancelled or threading.Event()
        try:
            with _exclusive(
                cache / f"{folder.name}.lock", _Watch(target, cancelled, "waiting for another process to compile")
            ):
                if not (folder / _LIBRARY).exists():  # another process may have made it meanwhile
                    if retry:
                        (folder / _FAILURE).unlink(missing_ok=True)
                    else:
                        _recall_failure(folder)
                    _build(target, folder, cancelled)
        except _Hung as error:
            _hung.append(str(error))
            raise
    refuse_distrusted(folder / _LIBRARY, cache)
    return folder / _LIBRARY


def _folder(target: BuildTarget) -> Path:
    return cache_folder() / f"{target.name.lower().replace(' ', '-')}-{target.key()}"


class _Watch:
    """Called while a build works or waits: logs that it does, and raises where it is to end."""

    def __init__(self, target: BuildTarget, cancelled: threading.Event, doing: str) -> None:
        self.target, self.cancelled, self.doing = target, cancelled, doing
        self.started = time.monotonic()
        self.note = max(_FIRST_NOTE, 2.0 * target.seconds)

    def __call__(self) -> None:
        if (number := requested()) is not None:
            raise Stopped(f"compiling was stopped by {number.name}")
        if self.cancelled.is_set():
            raise _Interrupted("compiling was stopped")
        seconds = time.monotonic() - self.started
        if seconds > self.note:
            self.note *= 2
            get_logger().info(
                "still %s the %s kernels after %.0f s (expected: %d s, at most %.0f s); %s=%s does without",
                self.doing, self.target.name, seconds, self.target.seconds, self.target.limit, ENVIRONMENT, REFERENCE,
            )  # fmt: skip

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.target.limit - (time.monotonic() - self.started)


@contextlib.contextmanager
def cancels(event: threading.Event) -> Iterator[None]:
    """Set the event where this thread is interrupted, by Ctrl-C for instance, while others compile for it."""
    try:
        yield
    except (Unusable, InputError, StorageError):  # which leave the others to their work
        raise
    except BaseException:
        event.set()
        raise


def _recall_failure(folder: Path) -> None:
    failure = folder / _FAILURE
    if failure.exists():
        reason = failure.read_text(encoding="utf-8").partition("\n")[0]
        raise Unusable(
            f"compiling them failed before: {reason} (all of it in {failure}; {ENVIRONMENT}={NATIVE} retries)"
        )


def _build(target: BuildTarget, folder: Path, cancelled: threading.Event) -> None:
    """Compile in a folder of its own, then give it its name; a failure leaves its messages there instead."""
    watch = _Watch(target, cancelled, "compiling")
    watch()  # a process that is to leave starts nothing
    _sweep(folder.parent)
    get_logger().info("compiling the %s kernels, once, about %d s, into %s", target.name, target.seconds, folder)
    work = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        objects = [work / f"{number}.o" for number in range(len(target.steps))]
        commands = [[*step, "-o", str(path)] for step, path in zip(target.steps, objects, strict=True)]
        with ThreadPoolExecutor(max(1, min(len(commands), available_cores()))) as pool, cancels(cancelled):
            list(pool.map(functools.partial(_command, watch=watch), commands))
        compiler, *options = target.link
        _command([compiler, "-o", str(work / _LIBRARY), *map(str, objects), *options], watch)
        for path in objects:
            path.unlink()
        (work / _LIBRARY).chmod(0o700)  # as the folder, whatever umask says
        if not (folder / _LIBRARY).exists():  # else a process that got no lock was faster
            shutil.rmtree(folder, ignore_errors=True)  # what a failure left
            work.rename(folder)
    except _Interrupted as error:
        get_logger().info("the %s kernels are not compiled: %s", target.name, error)
        raise
    except Unusable as error:
        if not work.exists():  # another process took it for abandoned: clocks jump
            raise _Interrupted("the folder to compile in was removed") from error
        write_text(private_folder(folder) / _FAILURE, str(error))
        raise Unusable(
            f"compiling them failed: {str(error).partition(chr(10))[0]} (all of it in {folder / _FAILURE})"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    get_logger().info("compiled the %s kernels in %.0f s", target.name, time.monotonic() - watch.started)


def _command(command: list[str], watch: _Watch) -> None:
    """Run a compiler; its messages become the exception, the first error in front."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = run_program(command, limit=watch.left, cwd=SOURCES, env=environment, watch=watch)
    except subprocess.TimeoutExpired:
        raise _Hung(f"{command[0]} did not end within {watch.target.limit:.0f} s and was stopped") from None
    except OSError as error:
        raise _Interrupted(f"{command[0]} could not be run: {error.strerror}") from None
    if done.code == 0:
        return
    messages = (done.err + done.out).strip()
    first = next((line for line in messages.splitlines() if "error" in line.lower()), messages.partition("\n")[0])
    if done.code < 0 or "No space left on device" in messages or "Killed" in messages:
        raise _Interrupted(f"{command[0]} was stopped: {first or f'signal {-done.code}'}")
    raise Unusable(f"{first}\n\n{' '.join(command)}\n\n{messages}\n")


@contextlib.contextmanager
def _exclusive(path: Path, watch: _Watch) -> Iterator[None]:
    """Hold the lock of a file, which saves work: where there are no locks, all processes build and one build stays.

    The file says "hung" where the process before had a compiler that hung: whoever was waiting does not try it again.

    Raises:
        Unusable: the wait is over without a library: a signal came, or compiling hangs.
    """
    import fcntl  # not on Windows, where no target comes this far

    with path.open("a+b") as file:  # not inherited by compilers: they may outlive this process
        waited = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    get_logger().info("another process compiles; waiting for it (%s)", path)
                    waited = True
                watch()
                if watch.left < -_GRACE:
                    raise _Hung(f"another process compiled the same for more than {watch.target.limit:.0f} s") from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                break
        file.seek(0)
        if waited and file.read() == _HUNG_NOTE:
            raise _Hung("the compiler hung in another process")
        file.truncate(0)
        try:
            yield
        except _Hung:
            file.write(_HUNG_NOTE)
            raise


def _sweep(cache: Path) -> None:
    """Remove what processes left that were killed while they compiled."""
    for folder in cache.glob("building-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _ABANDONED:
                shutil.rmtree(folder)
