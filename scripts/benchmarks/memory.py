"""Memory that one call adds at its peak, measured where nothing else has touched the memory.

On the CPU that is a process of its own. Starting one for each side would spend most of a run on importing torch, so one
process imports everything, does nothing with it, and forks for each measurement. On a GPU torch counts.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from scripts.benchmarks.limits import Limits
from utils.device_memory import allocated_memory, peak_device_memory, reset_peak_device_memory
from utils.devices import abilities, synchronise
from utils.env import RETURNING_MEMORY

ROOT = Path(__file__).resolve().parents[2]
SERVE = "--serve-memory"
# CUDA does not work in a child of a process that has looked for it.
_ENVIRONMENT = {**RETURNING_MEMORY, "CUDA_VISIBLE_DEVICES": ""}
Work = Callable[[], object]
Find = Callable[[str, str, bool], tuple[Callable[[], Work], tuple[str, ...] | None]]


class MemoryMeter(contextlib.AbstractContextManager["MemoryMeter"]):
    """Measures peaks; closing it ends its process.

    Args:
        limits: of the machine, for those who measure.
        arguments: for the process, so that it knows the same comparisons.
        active: False measures nothing.
    """

    def __init__(self, limits: Limits, arguments: tuple[str, ...] = (), *, active: bool = True) -> None:
        self.limits, self.arguments = limits, arguments
        self.active = active
        self._server: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def peak(
        self, key: str, side: str, prepare: Callable[[], Work], device: str, *, pilot: bool = False
    ) -> float | None:
        """MiB that a side needs at its peak; None where that is unknown.

        Args:
            key: of the comparison.
            side: "baseline" or "ours".
            prepare: makes the work, for a device whose memory torch counts.
            device: its type, such as "cpu".
            pilot: of the side's smaller run.
        """
        if not abilities(device).in_main_memory:
            return device_peak(prepare(), torch.device(device)) if abilities(device).peak else None
        if not self.active or not Path("/proc/self/clear_refs").exists():
            return None
        question = json.dumps([key, side, pilot]) + "\n"
        if self._server is None:
            self._server = self._start()
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        answer = ""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and has no answer
            self._server.stdin.write(question)
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
        if not answer:
            self._close()
            raise RuntimeError(f"the process that measures memory ended at {key}; its messages are above")
        found: float | None = json.loads(answer)
        return found

    def _start(self) -> subprocess.Popen[str]:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        environment = {**os.environ, **_ENVIRONMENT, "TMPDIR": self._folder.name}
        command = [sys.executable, str(ROOT / "scripts/benchmark.py"), *self.arguments, SERVE]
        # In a group of its own, Ctrl-C does not reach it, and what it has started ends with it.
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._server is not None and kind is not None:
            os.killpg(self._server.pid, signal.SIGKILL)  # what it measures may take minutes
        self._close()

    def _close(self) -> None:
        """End the process; the next question starts another."""
        if self._server is not None:
            assert self._server.stdin is not None
            assert self._server.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                self._server.stdin.close()
            self._server.wait()
            self._server.stdout.close()
            self._server = None
        if self._folder is not None:
            self._folder.cleanup()


def serve(find: Find) -> None:
    """Answer questions ``[key, side, pilot]`` on the standard input with MiB, or null, on the standard output.

    Args:
        find: what prepares the work of a question, and what it has loaded, as ``Side`` says. Nothing is prepared in
            this process: one that has had threads of OpenMP cannot fork.
    """
    answers = os.dup(1)
    os.dup2(2, 1)  # what the work prints is no answer
    for line in sys.stdin:
        prepare, loaded = find(*json.loads(line))
        os.write(answers, (json.dumps(_in_child(prepare, loaded)) + "\n").encode())


def _in_child(prepare: Callable[[], Work], loaded: tuple[str, ...] | None) -> float | None:
    """The peak of a work in a process of its own; None where that was killed, or had not enough memory.

    Args:
        prepare: makes the work.
        loaded: modules to import first, where what ``prepare`` loads counts; None where a call alone does.
    """
    reading, writing = os.pipe()
    temporary = tempfile.mkdtemp()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            tempfile.tempdir = temporary  # the child leaves without tidying up
            peak = own_peak(prepare()) if loaded is None else peak_of_loading(prepare, loaded)
            os.write(writing, json.dumps(peak).encode())
            code = 0
        except BaseException:  # noqa: BLE001  reported; nothing of this process may go on in the child
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    shutil.rmtree(temporary, ignore_errors=True)
    return float(answer) if answer else None


def own_peak(work: Work) -> float:
    """MiB that one call of ``work`` adds to this process at its peak (Linux)."""
    work()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    work()
    return (_status("VmHWM") - before) / 1024


def peak_of_loading(prepare: Callable[[], Work], loaded: Iterable[str]) -> float:
    """MiB that preparing a work and one call add to this process at the peak (Linux), once modules are imported."""
    for name in loaded:
        importlib.import_module(name)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    prepare()()
    return (_status("VmHWM") - before) / 1024


def device_peak(work: Work, device: torch.device) -> float:
    """MiB of a device's memory that one call of ``work`` adds at its peak; of one whose allocator counts."""
    work()
    gc.collect()
    before = allocated_memory(device)
    reset_peak_device_memory(device)
    work()
    synchronise(device)
    return (peak_device_memory(device) - before) / 2**20


def _status(name: str) -> int:
    """A size in KiB from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {name}")
