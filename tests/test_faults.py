"""What machines do to a training run: kill it, fill its memory, announce its end, lose a rank."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from models.training.objectives import PixelObjective
from scripts.faults.settings import chosen, make_place
from scripts.faults.verify import compare
from tests.runs import ROOT, TWO_RANKS, command, environment, run, run_here, run_line, start, torchrun, workplace
from tests.test_straight_line import assert_same_run, weights
from utils.seed import random_stream


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workplace(tmp_path_factory.mktemp("undisturbed"))
    done = run(folder, "train.py", "-opt", "train.yml")
    assert done.returncode == 0, done.stderr
    return folder / "experiments/tiny"


def at_step(step: int, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a fault happen when iteration ``step`` begins."""
    sound = PixelObjective.step

    def faulty(objective: PixelObjective, state: Any, batch: Any) -> Any:
        if state.step + 1 == step:
            fault()
        return sound(objective, state, batch)

    monkeypatch.setattr(PixelObjective, "step", faulty)


def test_full_memory_is_explained_and_the_state_kept(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        at_step(7, full, patched)
        assert run_here("train.py", "-opt", "train.yml") == 1
    printed = capsys.readouterr().err
    work = "iteration 7 on cpu, batch 2, patches of 12 x 12 low-resolution pixels, float32 (CUDA out of memory)"
    assert f"the memory is full: {work}. What helps: " in printed
    assert "train.accumulate: 2 (now 1); train.amp: bf16" in printed
    assert "Traceback" not in printed
    assert (tmp_path / "experiments/tiny/training_states/6.state").exists()
    assert run_here("train.py", "-opt", "train.yml", "--auto_resume") == 0
    assert_same_run(undisturbed, tmp_path / "experiments/tiny")


def test_the_announced_end_of_a_job_saves_and_torchrun_s_restart_resumes(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    with monkeypatch.context() as patched:
        at_step(5, lambda: os.kill(os.getpid(), signal.SIGUSR1), patched)
        assert run_here("train.py", "-opt", "train.yml") == 138
    assert "stopped at iteration 5" in capsys.readouterr().err
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert run_here("train.py", "-opt", "train.yml") == 0
    assert "at iteration 5" in capsys.readouterr().err
    assert_same_run(undisturbed, tmp_path / "experiments/tiny")


def test_validation_does_not_change_the_training(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "val=~") == 0
    ours, theirs = (
        weights(folder / "models/net_g_latest.pth") for folder in (tmp_path / "experiments/tiny", undisturbed)
    )
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kill -9")
@pytest.mark.parametrize(("name", "kills"), [("one process", 8), ("GAN, degradation pool", 5)])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(name: str, kills: int, tmp_path: Path) -> None:
    [setting] = chosen([name])
    changes = {**setting.changes, "use_tb_logger: true": "use_tb_logger: false"}  # its imports take long
    setting = dataclasses.replace(setting, changes=changes)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        make_place(folder, setting)

    def line(length: int) -> list[str]:
        return command("train.py", "-opt", "train.yml", "--auto_resume", "--force_yml", f"train:total_iter={length}")

    random = random_stream(25)
    for number in range(kills):
        log = killed / f"{number}.log"
        with log.open("w") as output:
            process = start(line(1000), killed, environment(), stderr=output)
        # A few iterations on, and a few milliseconds after: in a step, a validation, or while a checkpoint is written.
        left = int(random.integers(1, 12))
        deadline = time.monotonic() + 60
        while log.read_text().count("iter:") < left:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.002)
        time.sleep(float(random.uniform(0, 0.03)))
        process.kill()
        assert process.wait(60) == -signal.SIGKILL, log.read_text()
    reached = max(int(path.stem) for path in (killed / "experiments/tiny/training_states").glob("*.state"))
    length = reached // 8 * 8 + 16
    for place in (killed, whole):
        done = run_line(place, line(length))
        assert done.returncode == 0, done.stderr
    assert compare(whole, killed, dataclasses.replace(setting, steps=length)) == []


@pytest.mark.slow
def test_a_lost_rank_is_replaced(tmp_path: Path) -> None:
    whole, lost = workplace(tmp_path / "whole"), workplace(tmp_path / "lost")
    # Rank 1 dies twice: before the run has begun, and when the first checkpoint is there.
    dying = lost / "dying_train.py"
    dying.write_text(
        "import os, pathlib, runpy, sys, threading, time\n"
        "def wait():\n"
        "    first = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'\n"
        "    sign = '.tiny.lock' if first else 'tiny/training_states/4.state'\n"
        "    while not pathlib.Path('experiments', sign).exists():\n"
        "        time.sleep(0.01)\n"
        "    os._exit(9)\n"
        "if os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] in '01':\n"
        "    threading.Thread(target=wait, daemon=True).start()\n"
        f"sys.path[0] = {str(ROOT)!r}\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    outputs = []
    # An earlier run is there, which is not gone on with: its weights would be others.
    assert (
        run(
            lost, "train.py", "-opt", "train.yml", "--force_yml", "manual_seed=9", "train:total_iter=2", "val=~"
        ).returncode
        == 0
    )
    for place, script, restarts in ((whole, "train.py", "0"), (lost, str(dying), "2")):
        launch = (*TWO_RANKS, "--max-restarts", restarts)
        arguments = ("-opt", "train.yml", "--launcher", "pytorch", "--force_yml", "train:total_iter=80", "val=~")
        launched = run_line(place, torchrun(script, *arguments, launch=launch))
        assert launched.returncode == 0, launched.stderr
        outputs.append(launched.stderr)
    assert "resumed from" not in outputs[0]
    assert "an earlier run of this name was kept" in outputs[1]
    assert "resumed from" in outputs[1]
    ours, theirs = (weights(place / "experiments/tiny/models/net_g_latest.pth") for place in (lost, whole))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
