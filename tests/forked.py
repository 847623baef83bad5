"""Our programs as processes of their own, without the seconds in which each new interpreter imports torch.

A server has imported what the programs import, and forks for each of them. A program gets what a new process gets:
arguments, folder, environment, import path, streams, Python's own handlers of signals, an id; and it ends as an
interpreter does, with the same exit code. torchrun's agent forks its ranks in the same way: they are its children.

What differs: ``sitecustomize`` is not run, next to nothing is left to import, and modules are not taken apart at
the end, which takes 0.3 s. How a program starts is tested with new interpreters (tests/utils/test_start.py), and
so are one training and one under torchrun.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn

from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

ROOT = Path(__file__).resolve().parent.parent
_PRELOADED = ("models.training.loop", "torch._dynamo")  # which the first optimiser imports
_AT_START = (
    "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL", "OMP_NUM_THREADS", "PYTHONIOENCODING", "PYTHONPATH", "PYTHONUTF8",
)  # fmt: skip
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # of the server; no test's own
_LARGEST = 1 << 20  # bytes of a request


def start(
    line: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *,
    stdout: IO[Any] | None = None,
    stderr: IO[Any] | int | None = None,
) -> Program | subprocess.Popen[str]:
    """Start a program of ours, or torchrun with one.

    Where a variable differs that interpreters, or what is imported, read at their start, it is a new interpreter; and
    elsewhere than on Linux.

    Args:
        line: the command line: ``[sys.executable, PATH, ...]`` or ``[sys.executable, "-m", MODULE, ...]``.
        folder: where it starts.
        environment: of the process.
        stdout: a file; by default the one of this process.
        stderr: the same, or ``subprocess.PIPE``: text to be read from the process's attribute.
    """
    if sys.platform == "linux" and all(environment.get(name) == _ENVIRONMENT.get(name) for name in _AT_START):
        return Program(line, folder, environment, stdout, stderr)
    return subprocess.Popen(line, cwd=folder, env=environment, stdout=stdout, stderr=stderr, text=True)


class Program:
    """A forked program; the interface is that of :class:`subprocess.Popen`, as far as tests use it."""

    def __init__(
        self,
        line: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        stdout: IO[Any] | None,
        stderr: IO[Any] | int | None,
    ) -> None:
        self.args = list(line)
        self.returncode: int | None = None
        self.stderr: IO[str] | None = None
        with ExitStack() as parents:
            nothing = parents.enter_context(Path(os.devnull).open())
            streams = [nothing.fileno(), 1 if stdout is None else stdout.fileno(), 2]
            if isinstance(stderr, int):
                assert stderr == subprocess.PIPE
                reading, streams[2] = os.pipe()
                self.stderr = os.fdopen(reading, errors="replace")  # closed by __exit__, or the test
                parents.callback(os.close, streams[2])
            elif stderr is not None:
                streams[2] = stderr.fileno()
            self._answers = _server().ask(line[1:], folder, environment, streams)
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        """The exit code, minus the signal's number where one ended it; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, as soon as there is one.

        Raises:
            subprocess.TimeoutExpired: it still runs after so many seconds.
        """
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(int(self._answers.readline()))
            self._answers.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the program has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stderr is not None:
            self.stderr.close()
        self.wait()


class _Server:
    """The process that forks, as the tests see it; it ends, with all that it has forked, when this one ends."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = f"from tests.forked import serve; serve({theirs.fileno()})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=ROOT, env=_ENVIRONMENT, pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the tests
            )  # fmt: skip

    def ask(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], streams: list[int]
    ) -> IO[str]:
        """Have a program forked; gives the stream of its id and of how it ends, a line each."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            request = json.dumps([list(arguments), os.fspath(folder), dict(environment)]).encode()
            socket.send_fds(self._requests, [request], [*streams, theirs.fileno()])
            return ours.makefile("r")


@functools.cache
def _server() -> _Server:
    return _Server()


def serve(requests: int) -> None:
    """What the server does."""
    for module in _PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what all of them share is not looked through by each
    with socket.socket(fileno=requests) as asked:
        request, streams = _until_forked(asked)
    arguments, folder, environment = json.loads(request)
    _run(arguments, folder, environment, streams)


def _until_forked(asked: socket.socket) -> tuple[bytes, list[int]]:
    """Fork for each request and answer how it ends; returns in the forked processes: the request and its streams."""
    running: dict[int, tuple[int, socket.socket]] = {}  # a descriptor of the process -> its id, whom to answer
    with selectors.DefaultSelector() as waiting:
        waiting.register(asked, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fd in running:
                    waiting.unregister(key.fd)
                    os.close(key.fd)
                    pid, answers = running.pop(key.fd)
                    with answers, suppress(BrokenPipeError):
                        answers.sendall(b"%d\n" % os.waitpid(pid, 0)[1])
                    continue
                request, descriptors, _, _ = socket.recv_fds(asked, _LARGEST, 4)
                if not request:  # the tests are over
                    for pid, _ in running.values():
                        os.kill(pid, signal.SIGKILL)
                    os._exit(0)
                answers = socket.socket(fileno=descriptors.pop())
                pid = os.fork()
                if pid == 0:
                    answers.close()
                    for descriptor, (_, other) in running.items():
                        os.close(descriptor)
                        other.close()
                    return request, descriptors
                for descriptor in descriptors:
                    os.close(descriptor)
                answers.sendall(b"%d\n" % pid)
                watched = os.pidfd_open(pid)
                running[watched] = pid, answers
                waiting.register(watched, selectors.EVENT_READ)


def _run(arguments: list[str], folder: str, environment: Mapping[str, str], streams: Sequence[int]) -> NoReturn:
    """Be a new process that runs a program, and end as an interpreter does."""
    code: object = None
    try:
        _become(arguments, folder, environment, streams)
    except SystemExit as leaving:
        code = leaving.code
    except BaseException as error:  # noqa: BLE001
        traceback.print_exc()
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit((code or 0) & 0xFF)


def _become(arguments: list[str], folder: str, environment: Mapping[str, str], streams: Sequence[int]) -> None:
    """Have what a new process has, and run a program."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    for descriptor in {*streams} - {0, 1, 2}:
        os.close(descriptor)
    SubprocessHandler._popen = _forked_rank  # type: ignore[method-assign, assignment]
    unbuffered = bool(environment.get("PYTHONUNBUFFERED"))
    if arguments[0] == "-u":
        unbuffered = bool(arguments.pop(0))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        setattr(sys, name, _standard_stream(number, name, unbuffered))
        setattr(sys, f"__{name}__", getattr(sys, name))
    if arguments[0] == "-m":
        sys.argv[:], sys.path[0] = arguments[1:], folder
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:], sys.path[0] = arguments, str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


def _standard_stream(number: int, name: str, unbuffered: bool) -> io.TextIOWrapper:
    """As an interpreter makes it, for the file that is there now."""
    raw = io.FileIO(number, "r" if name == "stdin" else "w", closefd=False)
    raw.name = f"<{name}>"
    buffer = io.BufferedReader(raw) if name == "stdin" else raw if unbuffered else io.BufferedWriter(raw)
    before = getattr(sys, f"__{name}__")
    lines = not unbuffered and (name == "stderr" or raw.isatty())
    stream = io.TextIOWrapper(buffer, before.encoding, before.errors, line_buffering=lines, write_through=unbuffered)
    stream.mode = raw.mode[:1]  # type: ignore[misc]
    return stream


def _forked_rank(handler: SubprocessHandler, line: Sequence[str], environment: Mapping[str, str]) -> _Rank:
    """What takes the place of starting an interpreter in torchrun's agent."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return _Rank(pid)
    os.setsid()
    for number in signal.valid_signals():  # the agent's own
        if callable(signal.getsignal(number)) and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    files = [(0, None), (1, handler._stdout), (2, handler._stderr)]
    streams = [number if file is None else os.dup(file.fileno()) for number, file in files]
    _run(list(line[1:]), str(Path.cwd()), environment, streams)


class _Rank:
    """A child of torchrun's agent, as far as the agent looks at it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("a rank", timeout)
            time.sleep(0.01)
        return self.returncode  # type: ignore[return-value]
