"""A round of the soak: one training, disturbed again and again until it ends, and compared with the undisturbed one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.training.checkpoint import CheckpointFolder
from scripts.faults import processes
from scripts.faults.damage import Damage, damage
from scripts.faults.disturbances import EXIT_CODES, Disturbance, Moment, draw, happen, wait_for
from scripts.faults.processes import PATIENCE, ROOT, Child, children_of, command_of, end_all, processes_in
from scripts.faults.reader import Identity, identity, read_all_the_time
from scripts.faults.settings import NAME, Setting, make_place
from scripts.faults.verify import compare
from utils.errors import StorageError
from utils.files import make_folder
from utils.seed import random_stream

DISK_MIB = 128
"""Of the small file system; several times what a run needs, with the states that are set aside."""
_GRACE = 20.0  # seconds for workers and ranks to see that their parent is gone
_ENOUGH = 30  # deviations of a round
_DAMAGED = 0.4  # part of the runs after which something is damaged
_RESUMED = re.compile(r"resumed from .* at iteration ([\d,]+)")
_OF_TORCHRUN = re.compile(r"torch\.distributed\.elastic\..*\.(ChildFailedError|SignalException)")  # how it ends always
_NONE = Disturbance("none", Moment("start", 0, 0.0))


@dataclass
class Outcome:
    """What a run did: an element of the record."""

    disturbance: str
    described: str
    code: int | None
    seconds: float
    damage: str = ""


@dataclass
class Round:
    """The record of a round."""

    number: int
    setting: str
    seconds: float = 0.0
    runs: list[Outcome] = field(default_factory=list)
    reads: dict[str, int] = field(default_factory=dict)
    second_runs: int = 0
    deviations: list[str] = field(default_factory=list)


class Soak:
    """The undisturbed training of each setting, made once, and rounds against it.

    Args:
        folder: where all of it happens.
        seed: of all that is drawn.
        tick: called now and then with a note, for a progress bar.
        over: whether time is up: the round that is on ends without further disturbances.
    """

    def __init__(self, folder: Path, seed: int, tick: Callable[[str], None], over: Callable[[], bool]) -> None:
        self.folder, self.seed, self.tick, self.over = folder, seed, tick, over
        self._whole: dict[str, Path] = {}

    def undisturbed(self, setting: Setting) -> Path:
        """The folder of the undisturbed training, a Python process of its own.

        Raises:
            StorageError: it failed.
        """
        if setting.name not in self._whole:
            place = self._place(f"undisturbed {len(self._whole)}", setting)
            log = place / "output.log"
            if setting.ranks > 1:
                child = processes.start(place, setting, log)
            else:
                child = processes.start_new(place, log, [str(ROOT / "train.py"), "-opt", "train.yml"])
            while child.wait(1) is None and time.monotonic() - child.started < PATIENCE:
                self.tick(f"undisturbed: {setting.name}")
            if child.code() != 0:
                raise StorageError(f"{setting.name}: the undisturbed training failed; see {log}")
            self._whole[setting.name] = place
        return self._whole[setting.name]

    def _place(self, name: str, setting: Setting) -> Path:
        place = make_folder(self.folder / name)
        processes.call(make_place, place, "preparation", place, setting)
        return place

    def round(self, number: int, setting: Setting, *, small_disk: bool, keep: bool) -> Round:
        """One training to its end, whatever happens to it; the folder stays where something was wrong with it."""
        record = Round(number, setting.name)
        started = time.monotonic()
        whole = self.undisturbed(setting)
        place = self._place(f"round {number}", setting)
        disk = make_folder(place / "experiments")
        mounted = small_disk and _mount(disk)
        try:
            training = Training(place, setting, record, (self.seed, number), mounted)
            while not training.step(disturbed=not self.over()):
                self.tick(
                    f"round {number}: {setting.name}, {len(record.runs)} runs, {len(record.deviations)} deviations"
                )
            if training.ended:
                record.deviations += processes.call(compare, place, "comparison", whole, place, setting)
        finally:
            end_all(place)
            kept = keep or bool(record.deviations)
            if mounted:
                _unmount(disk, keep=kept)
        if not kept:
            shutil.rmtree(place)
        record.seconds = time.monotonic() - started
        return record


class Training:
    """A training that is started until it has ended.

    Args:
        place: its folder.
        setting: of the training.
        record: gets what happened.
        key: of the random streams.
        small_disk: ``experiments`` is a small file system.
    """

    def __init__(self, place: Path, setting: Setting, record: Round, key: tuple[int, int], small_disk: bool) -> None:
        self.place, self.setting, self.record, self.key, self.small_disk = place, setting, record, key, small_disk
        self.root = place / "experiments" / NAME
        self.folder = CheckpointFolder(self.root)
        self.damaged: dict[Identity, Damage] = {}
        self.ended = False
        self.pids: set[int] = set()
        self.number = 0
        self.overtaken = False  # the first of two runs had ended before the second looked
        self._started = 0

    def step(self, *, disturbed: bool) -> bool:
        """One run; whether it was the last: the training has ended, or goes wrong again and again."""
        self.number, self.overtaken = len(self.record.runs), False
        random = random_stream(*self.key, self.number)
        disturbance = draw(random, self.setting, small_disk=self.small_disk) if disturbed else _NONE
        sound = self._sound()
        archived = self._archived()
        child, reader = self._start(disturbance)
        try:
            self._disturb(disturbance, child)
            code = child.wait()
        finally:
            (self.place / "experiments" / "ballast").unlink(missing_ok=True)
            self._stop(reader)
        outcome = Outcome(disturbance.kind, str(disturbance), code, round(time.monotonic() - child.started, 3))
        self.record.runs.append(outcome)
        text = child.text()
        self._judge(disturbance, child, text)
        self._judge_start(text, sound, archived)
        self.ended = code == 0
        if not self.ended and disturbed and random.random() < _DAMAGED:
            done = damage(random, self.root, self._sound(), self.setting.players)
            if done is not None:
                outcome.damage = f"{done.kind}: {done.path.name}"
                if done.path.exists():
                    self.damaged[identity(done.path)] = done
        if self.ended or self._hopeless():
            self._look_for_leftovers()
            return True
        return False

    def _sound(self) -> list[int]:
        """Iterations with a whole checkpoint, newest first."""
        files = {
            step: [self.folder.state(step), *(self.folder.network(step, player) for player in self.setting.players)]
            for step in self.folder.steps()
        }
        return [
            step for step, paths in files.items()
            if all(path.exists() and identity(path) not in self.damaged for path in paths)
        ]  # fmt: skip

    def _archived(self) -> int:
        """Folders of earlier runs: a run that begins anew renames what it finds."""
        return len(list(self.place.glob(f"*/{NAME}_archived_*")))

    def _start(self, disturbance: Disturbance) -> tuple[Child, Child]:
        # TensorBoard orders files by the second in which they were begun.
        while int(time.time()) == self._started:
            time.sleep(0.02)
        self._started = int(time.time())
        log = self.place / f"run {self.number}.log"
        restarts = 2 if disturbance.kind.endswith("restarted") else 0
        child = processes.start(self.place, self.setting, log, fault=disturbance.fault, restarts=restarts)
        reader = processes.fork(
            read_all_the_time, self.place.parent, self.place / f"reader {self.number}.log", self.root,
            self.place / f"reader {self.number}.json", frozenset(self.damaged),
        )  # fmt: skip
        return child, reader

    def _stop(self, reader: Child) -> None:
        reader.send(signal.SIGTERM)
        code, report = reader.wait(), reader.log.with_suffix(".json")
        if code != 0 or not report.exists():
            reader.send(signal.SIGKILL)  # it may have been asked before it could listen
            self._deviation(f"the reader left with {code}: {reader.text()[-500:]}")
            return
        found: dict[str, Any] = json.loads(report.read_text())
        for kind, count in found["reads"].items():
            self.record.reads[kind] = self.record.reads.get(kind, 0) + count
        for problem in found["problems"][:1]:
            self._deviation(problem)
        report.unlink()
        reader.log.unlink()

    def _disturb(self, disturbance: Disturbance, child: Child) -> None:
        if disturbance.kind == "none" or disturbance.fault is not None:
            return
        if not wait_for(disturbance.moment, child, self.place):
            return
        self.pids.update(processes_in(self.place))
        if disturbance.kind == "file system full":
            _fill(self.place / "experiments" / "ballast")
        elif disturbance.kind == "a second run in the folder":
            self._second_run(child)
            happen(disturbance, child, ())
        else:
            happen(disturbance, child, self._victims(child))
            if disturbance.kind == "a rank killed, restarted":
                wait_for(disturbance.moment, child, self.place)
                child.send(signal.SIGKILL)

    def _victims(self, child: Child) -> list[int]:
        """Worker processes of a run, or the ranks of an agent."""
        found = children_of(child.pid)
        return [pid for pid in found if "train.py" in command_of(pid)] if self.setting.ranks > 1 else found

    def _second_run(self, first: Child) -> None:
        """Start the training anew while it is on: the second has to leave with exit code 2 and change nothing.

        torchrun leaves with 1 whatever its ranks leave with.
        """
        log = self.place / f"run {self.number} second.log"
        code = processes.start(self.place, self.setting, log, anew=True).wait()
        self.record.second_runs += 1
        self.overtaken = first.code() is not None
        expected = 2 if self.setting.ranks == 1 else 1
        if code != expected and not self.overtaken:
            self._deviation(f"a second run in the folder left with {code}, not {expected}")

    def _judge(self, disturbance: Disturbance, child: Child, text: str) -> None:
        """Exit code and output of a run."""
        code = child.code()
        if code is None:
            self._deviation(f"{disturbance}: still running after {PATIENCE:.0f} s")
            end_all(self.place)
        elif code != 0 and code not in EXIT_CODES[disturbance.kind]:
            self._deviation(f"{disturbance}: exit code {code}; its last words: {_last_line(text)}")
        elif code == 0 and "done: " not in text:
            self._deviation(f"{disturbance}: exit code 0 before the end")
        raised = [line for line in _raised(text) if self.setting.ranks == 1 or not _OF_TORCHRUN.match(line)]
        if raised:
            self._deviation(f"{disturbance}: a traceback: {raised[-1]}")
        stopped = re.search(r"stopped at iteration ([\d,]+)", text)
        if stopped and not self.folder.state(int(stopped[1].replace(",", ""))).exists():
            self._deviation(f"{disturbance}: {stopped[0]}, and there is no state of it")

    def _judge_start(self, text: str, sound: list[int], archived: int) -> None:
        """A run goes on from the newest state that is whole."""
        resumed = [int(step.replace(",", "")) for step in _RESUMED.findall(text)]
        if sound and resumed and resumed[0] < sound[0]:  # more: of ranks that outlived their agent, or not so damaged
            self._deviation(f"resumed at iteration {resumed[0]}; the newest whole state was of {sound[0]}")
        if sound and not resumed and "iter: " in text:
            self._deviation(f"began anew; there was a whole state of iteration {sound[0]}")
        if sound and not self.overtaken and self._archived() != archived:
            self._deviation(f"the folder was archived; there was a whole state of iteration {sound[0]}")

    def _hopeless(self) -> bool:
        """Whether the rest would tell nothing more: so much has gone wrong, or undisturbed runs do not end."""
        undisturbed = [run for run in self.record.runs[-3:] if run.disturbance == "none"]
        return len(self.record.deviations) >= _ENOUGH or len(undisturbed) == 3

    def _look_for_leftovers(self) -> None:
        """Processes and shared memory that the training's runs have left."""
        until = time.monotonic() + _GRACE
        while (left := list(processes_in(self.place))) and time.monotonic() < until:
            time.sleep(0.1)
        if left:
            named = ", ".join(f"{pid} ({command_of(pid)})" for pid in left)
            self._deviation(f"processes are left {_GRACE:.0f} s after the end: {named}")
        shared = processes.shared_memory(self.pids)
        if shared:
            self._deviation(f"left in /dev/shm: {', '.join(shared)}")

    def _deviation(self, text: str) -> None:
        shown = text.replace(f"{self.place}{os.sep}", "").replace(f"{ROOT}{os.sep}", "")
        self.record.deviations.append(f"run {self.number}: {shown}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1][:300]


def _raised(text: str) -> list[str]:
    """What the tracebacks of an output end with."""
    ends = []
    for part in re.split(r"^.*Traceback \(most recent call last\):\n", text, flags=re.MULTILINE)[1:]:
        whole = (line for line in part.splitlines() if line and line[0] not in " |")
        ends.append(next(whole, "cut off")[:300])
    return ends


def _mount(folder: Path) -> bool:
    """Put a small file system there; whether that is allowed."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    line = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def _unmount(folder: Path, *, keep: bool) -> None:
    if keep:
        shutil.copytree(folder, folder.with_name(f"{folder.name} kept"))
    subprocess.run(["umount", str(folder)], check=False)


def _fill(path: Path) -> None:
    """Take all the space that a file system has left."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            return
