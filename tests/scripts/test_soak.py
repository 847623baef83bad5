"""The soak: it finds nothing in a sound training, and finds what is planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.faults import processes
from scripts.faults.disturbances import EXIT_CODES, draw
from scripts.faults.record import BEGIN, END, read_record
from scripts.faults.settings import SETTINGS, Setting
from tests.runs import ROOT, command, run_line
from utils.errors import InputError
from utils.seed import random_stream

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

# With trainings of half the length, and the undisturbed ones forked as the others are.
SHORT = """
import contextlib, dataclasses, sys, time
sys.path.insert(0, sys.argv.pop(1))
from scripts.faults import processes, settings
processes.start_new = lambda place, log, line: processes.fork(processes._train, place, log, line[1:], None)
settings.SETTINGS = tuple(dataclasses.replace(setting, steps=setting.steps // 2) for setting in settings.SETTINGS)
from scripts import soak
from utils.command import run_command
"""
# Two faults: states are read without their random generators, and one of the files is written in place, not at once.
PLANTED = """
from models.training import checkpoint
from models.weights import files

sound = files.atomic_write

class InPlace:
    def __init__(self, file):
        self.file = file
    def write(self, content):
        middle = len(content) // 2
        self.file.write(content[:middle])
        self.file.flush()
        time.sleep(0.2)
        self.file.write(content[middle:])

@contextlib.contextmanager
def written_in_place(path):
    if path.name != "net_g_best.pth":
        with sound(path) as file:
            yield file
    else:
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            yield InPlace(file)

checkpoint.set_random_state = lambda state: None
files.atomic_write = written_in_place
"""


def soak(folder: Path, *arguments: str, planted: str = "") -> subprocess.CompletedProcess[str]:
    """Run scripts/soak.py, by a script that shortens it."""
    script = folder / "soak.py"
    script.write_text(f"{SHORT}{planted}sys.exit(run_command(soak.main))\n")
    return run_line(folder, command(str(script), str(ROOT), *arguments), timeout=600)


@pytest.mark.slow
def test_a_short_soak_finds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--minutes", "5", "--rounds", "1", "--seed", "1", "--setting", "2 workers")
    done = soak(tmp_path, *arguments, "--output", str(out), "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    record = read_record(out)
    runs = [run for one in record["rounds"] for run in one["runs"]]
    assert sum(run["disturbance"] != "none" for run in runs) >= 3
    assert runs[-1]["code"] == 0
    assert all(one["deviations"] == [] and one["reads"][".pth"] > 0 for one in record["rounds"])
    assert "0 deviations" in (out / "soak.md").read_text()
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert soak(tmp_path, "--output", str(out), "--page", str(page)).returncode == 0
    assert page.read_text() == f"before\n{BEGIN}\n{(out / 'soak.md').read_text()}{END}\nafter\n"


@pytest.mark.long
def test_the_soak_finds_planted_faults(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--minutes", "5", "--rounds", "1", "--seed", "17", "--setting", "HAT with dropout, EMA")
    done = soak(tmp_path, *arguments, "--output", str(out), planted=PLANTED)
    assert done.returncode == 1, done.stdout + done.stderr
    deviations = [text for one in json.loads((out / "soak.json").read_text())["rounds"] for text in one["deviations"]]
    assert any("a reader saw" in text for text in deviations), deviations
    assert any("30.state: focalsr.random[0].torch has other values" in text for text in deviations), deviations
    assert any("net_g_latest.pth: params" in text for text in deviations), deviations
    assert "--seed 17 --setting 'HAT with dropout, EMA' --round 0" in (out / "soak.md").read_text()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_log_of_a_process_is_there_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.faults.processes.os.setsid", lambda: time.sleep(0.2))  # the first that a child does
    child = processes.fork(os.write, tmp_path, tmp_path / "log", 1, b"words\n")
    assert child.log.exists()
    assert child.wait() == 6  # what the function returns
    assert child.text() == "words\n"


def test_a_seed_decides_what_happens() -> None:
    drawn = [[str(draw(random_stream(5, i), SETTINGS[1], small_disk=True)) for i in range(400)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 300


@pytest.mark.parametrize("setting", SETTINGS, ids=[setting.name for setting in SETTINGS])
def test_what_happens_suits_the_setting(setting: Setting) -> None:
    kinds = {draw(random_stream(6, i), setting, small_disk=False).kind for i in range(300)}
    assert kinds <= EXIT_CODES.keys() - {"file system full", "none"}
    assert ("a rank killed" in kinds) == (setting.ranks > 1)
    assert ("a worker process killed" in kinds) == (setting.workers and setting.ranks == 1)


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no record of a soak"):
        read_record(tmp_path)
