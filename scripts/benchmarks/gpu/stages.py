"""Stages of a run on a GPU: commands side by side, each stage with a time limit, their output in files as it comes."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from utils.errors import InputError

ROOT = Path(__file__).resolve().parents[3]
Outcome = Literal["done", "failed", "out of time", "not possible"]
_GRACE = 5.0  # seconds between asking a command to end and ending it
_TURN = 0.1


@dataclass(frozen=True)
class Step:
    """A command of a stage.

    Attributes:
        name: of its log, NAME.log.
        argv: the program and its arguments; run in the repository's folder.
        environment: variables on top of this process's.
        modules: that it needs, by name.
        files: that it needs, in the repository.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    modules: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """What is run together.

    Attributes:
        number: by which it is asked for, in order of worth.
        title: in a few words.
        seconds: it may take.
        steps: run side by side.
    """

    number: int
    title: str
    seconds: float
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Report:
    """How a stage went.

    Attributes:
        number: of the stage.
        title: of the stage.
        outcome: the worst of its steps.
        seconds: it took.
        notes: what the reader must know: why it failed, what did.
    """

    number: int
    title: str
    outcome: Outcome
    seconds: float
    notes: tuple[str, ...] = ()


def run_stage(stage: Stage, seconds: float, folder: Path) -> Report:
    """Run the steps of a stage side by side; what has not ended in time is stopped, and what it has written stays.

    Args:
        stage: what is run.
        seconds: it may take.
        folder: for the logs.
    """
    started = time.monotonic()
    lacking = [reason for step in stage.steps if (reason := missing(step)) is not None]
    with contextlib.ExitStack() as files:
        running = [
            (step, _start(step, files.enter_context((folder / f"{step.name}.log").open("wb"))))
            for step in stage.steps
            if missing(step) is None
        ]
        try:
            while any(process.poll() is None for _, process in running) and time.monotonic() - started < seconds:
                time.sleep(_TURN)
            late = [step.name for step, process in running if process.poll() is None]
        finally:  # Ctrl-C too
            _stop([process for _, process in running])
    wrong = [
        f"{step.name}: exit code {process.returncode}; {_last_line(folder / f'{step.name}.log')}"
        for step, process in running
        if process.returncode != 0 and step.name not in late
    ]
    notes = [f"{name}: stopped after {seconds:.0f} s; what it had written stays" for name in late]
    outcome: Outcome = "failed" if wrong else "out of time" if late else "not possible" if lacking else "done"
    return Report(
        stage.number, stage.title, outcome, round(time.monotonic() - started, 1), (*lacking, *wrong, *notes)
    )  # fmt: skip


def missing(step: Step) -> str | None:
    """What of a command is not there, in one sentence: its program, module, files or folders."""
    if shutil.which(step.argv[0]) is None:
        return f"{step.name}: there is no program {step.argv[0]}"
    absent = [
        *(f"module {name}" for name in step.modules if not _module_exists(name)),
        *(f"file {name}" for name in step.files if not (ROOT / name).exists()),
    ]
    return f"{step.name}: there is no {absent[0]}" if absent else None


def _module_exists(name: str) -> bool:
    """Whether a module can be found, without running it."""
    place = ROOT / Path(*name.split("."))
    if place.with_suffix(".py").exists() or place.is_dir():
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # a package above it is not there
        return False


def limits(stages: Sequence[Stage], seconds: float | None) -> list[float]:
    """Seconds of each stage.

    Args:
        stages: that are run.
        seconds: of all together, which are shared in the proportion of the stages' own limits; None: their own.

    Raises:
        InputError: less than a second for a stage.
    """
    if seconds is None:
        return [stage.seconds for stage in stages]
    total = sum(stage.seconds for stage in stages)
    shares = [seconds * stage.seconds / total for stage in stages]
    if min(shares) < 1:
        raise InputError(f"--seconds {seconds:g} leaves a stage less than a second")
    return shares


def _start(step: Step, log: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **step.environment}
    # In a session of its own: what it starts ends with it.
    return subprocess.Popen(
        step.argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what runs, and what it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = [process for process in processes if process.poll() is None]
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        deadline = time.monotonic() + _GRACE
        while any(process.poll() is None for process in alive) and time.monotonic() < deadline:
            time.sleep(_TURN)


def _last_line(log: Path) -> str:
    """The line that says most: the last with an error in it, else the last."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return (errors or lines or ["no output"])[-1].strip()[:300]
