"""Trainings as processes: started in a fraction of the time that a new Python takes, watched, and ended by signals."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from scripts.faults.settings import Setting
from scripts.faults.writing import WriteFault, install
from train import main
from utils.command import run_command
from utils.files import write_json

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 180.0
"""Seconds after which a run that has not ended counts as hanging; the machine may be busy."""


class Child:
    """A process that was started, and the file that has its output."""

    def __init__(self, process: Any, log: Path) -> None:
        self._process, self.log = process, log
        self.pid: int = process.pid
        self.started = time.monotonic()

    def code(self) -> int | None:
        """The exit code, minus the signal's number where one ended it; None while it runs."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        code: int | None = self._process.exitcode
        return code

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.code() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """The exit code as soon as there is one; None: it still runs after that time."""
        until = time.monotonic() + seconds
        while self.code() is None and time.monotonic() < until:
            time.sleep(0.005)
        return self.code()

    def text(self) -> str:
        """Its output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


def start(
    place: Path,
    setting: Setting,
    log: Path,
    *,
    fault: WriteFault | None = None,
    restarts: int = 0,
    anew: bool = False,
) -> Child:
    """Start or resume the training of a folder: ``train.py -opt train.yml --auto_resume``.

    Args:
        place: the folder, made by :func:`scripts.faults.settings.make_place`.
        setting: of the training; several ranks are started by torchrun.
        log: gets what it prints.
        fault: of the disk, for a single process.
        restarts: how often torchrun may start all ranks again.
        anew: without ``--auto_resume``.
    """
    arguments = ["-opt", "train.yml", *([] if anew else ["--auto_resume"])]
    if setting.ranks > 1:
        return start_new(place, log, [
            "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(setting.ranks), "--max-restarts",
            str(restarts), str(ROOT / "train.py"), *arguments, "--launcher", "pytorch",
        ])  # fmt: skip
    return fork(_train, place, log, arguments, fault)


def start_new(place: Path, log: Path, arguments: Sequence[str]) -> Child:
    """Start a Python of its own in a folder."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=place, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
    return Child(process, log)


def fork(function: Callable[..., int], place: Path, log: Path, *arguments: Any) -> Child:
    """Call a function in a child of this process, in a folder; its result is the exit code."""
    log.touch()  # others read it, perhaps before the child has begun
    process = multiprocessing.get_context("fork").Process(
        target=_in_child, args=(function, place, log, *arguments), daemon=False
    )
    process.start()
    return Child(process, log)


def call(function: Callable[..., Any], folder: Path, name: str, *arguments: Any) -> Any:
    """The result of a function, a plain value, from a child of this process.

    This process must not compute: torch's threads do not live on in what is forked from it afterwards.

    Raises:
        RuntimeError: the function did not return.
    """
    result = folder / f"{name}.json"
    child = fork(_write_result, folder, folder / f"{name}.log", result, function, arguments)
    if child.wait() != 0:
        child.send(signal.SIGKILL)
        raise RuntimeError(f"{name} left with {child.code()}: {child.text()[-2000:]}")
    value = json.loads(result.read_text())
    result.unlink()
    child.log.unlink()
    return value


def _write_result(result: Path, function: Callable[..., Any], arguments: Sequence[Any]) -> int:
    write_json(result, function(*arguments))
    return 0


def _in_child(function: Callable[..., int], place: Path, log: Path, *arguments: Any) -> None:
    os.setsid()
    os.chdir(place)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # Before there are threads: torch replaces the pool of the parent at the first call, which two must not do at once.
    torch.set_num_threads(1)
    sys.exit(function(*arguments))


def _train(arguments: Sequence[str], fault: WriteFault | None) -> int:
    if fault is not None:
        install(fault, Path.cwd())
    sys.argv = [str(ROOT / "train.py"), *arguments]
    return run_command(main, arguments)


def processes_in(folder: Path) -> Iterator[int]:
    """Ids of the processes whose current folder this is: a run, its workers, its ranks."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if os.readlink(entry / "cwd") == str(folder):  # noqa: PTH115  of another process: only its name counts
                    yield int(entry.name)


def command_of(pid: int) -> str:
    """The command line of a process; nothing where it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def children_of(pid: int) -> list[int]:
    """Ids of the processes that a process has started itself."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def end_all(folder: Path) -> None:
    """Kill what still runs in a folder."""
    for pid in processes_in(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def shared_memory(pids: Collection[int]) -> list[str]:
    """Names of the shared memory that processes have left, by torch's names, which hold their ids."""
    folder = Path("/dev/shm")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [(name, re.match(r"torch_(\d+)_", name)) for name in names]
    return [name for name, match in found if match and int(match[1]) in pids]
