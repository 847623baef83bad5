"""Trainings that cannot go on: what is saved, what is said, and that the resumed run ends with the same bits."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data.patches.dataset import PatchDataset
from models.evaluation import evaluate
from models.training import step
from models.training.objectives import PixelObjective
from models.training.record_file import RecordFile
from tests.runs import run_here, workplace
from tests.test_straight_line import assert_same_run, weights
from utils.files import storage_error

DISK = "datasets:train:io_backend={type: disk}"


def noisy(patch: pytest.MonkeyPatch, before: Callable[[int], None], within: Callable[[int], None]) -> None:
    """Every iteration draws random numbers, as dropout does; calls on either side of that get its number."""
    sound = PixelObjective.step

    def iterate(objective: PixelObjective, state: Any, batch: Any) -> Any:
        before(state.step + 1)
        batch = batch.mapped(lambda tensor: tensor + 0.01 * torch.rand(tensor.shape))
        within(state.step + 1)
        return sound(objective, state, batch)

    patch.setattr(PixelObjective, "step", iterate)


def nothing(number: int) -> None:
    """Let an iteration be."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workplace(tmp_path_factory.mktemp("undisturbed run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        noisy(patch, nothing, nothing)
        assert run_here("train.py", "-opt", "train.yml", "--force_yml", DISK) == 0
    return folder / "experiments/tiny"


def once(number: int, fault: Callable[[], object]) -> Callable[[int], None]:
    """Lets the fault happen in one iteration."""

    def happens(at: int) -> None:
        if at == number:
            fault()

    return happens


def full(*_: object, **__: object) -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you")


def in_the_iteration(patch: pytest.MonkeyPatch) -> None:
    noisy(patch, nothing, once(7, full))


def in_the_optimiser(patch: pytest.MonkeyPatch) -> None:
    noisy(patch, once(7, lambda: patch.setattr(step, "_move", full)), nothing)


def in_the_ema(patch: pytest.MonkeyPatch) -> None:
    noisy(patch, once(7, lambda: patch.setattr(step, "update_ema", full)), nothing)


def in_the_batch(patch: pytest.MonkeyPatch) -> None:
    noisy(patch, once(6, lambda: patch.setattr(PatchDataset, "collect", full)), nothing)


def in_the_validation(patch: pytest.MonkeyPatch) -> None:
    noisy(patch, once(8, lambda: patch.setattr(evaluate, "upscale", full)), nothing)


@pytest.mark.parametrize(
    ("fault", "said", "saved"),
    [
        (in_the_iteration, "iteration 7 on cpu, batch 2, patches of 12 x 12 low-resolution pixels, float32 (Def", 6),
        (in_the_optimiser, "Iteration 7 had begun to change the weights, so that they are not saved", 4),
        (in_the_ema, "Iteration 7 had begun to change the weights, so that they are not saved", 4),
        (in_the_batch, "the memory is full: the batch of iteration 7 (Default", 6),
        (in_the_validation, "the memory is full: the image held_out_0 of HeldOut (Default", 8),
    ],
)
def test_a_full_memory_keeps_the_last_whole_iteration(
    fault: Callable[[pytest.MonkeyPatch], None], said: str, saved: int, undisturbed: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(workplace(tmp_path / "work place"))
    with monkeypatch.context() as patched:
        fault(patched)
        assert run_here("train.py", "-opt", "train.yml", "--force_yml", DISK) == 1
    printed = capsys.readouterr().err
    assert said in printed
    assert "What helps: " in printed
    assert f"iteration {saved}" in printed
    assert "continue with --auto_resume" in printed
    assert "Traceback" not in printed
    states = sorted(path.stem for path in Path("experiments/tiny/training_states").glob("*.state"))
    assert max(states, key=int) == str(saved)
    noisy(monkeypatch, nothing, nothing)
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", DISK, "--auto_resume") == 0
    assert_same_run(undisturbed, Path("experiments/tiny"))


def damaged() -> None:
    for path in Path("photos/HR").iterdir():
        path.write_bytes(path.read_bytes()[:-100])


def vanished() -> None:
    shutil.rmtree("photos/HR")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", [damaged, vanished])
def test_data_that_break_in_the_middle_end_the_run_with_its_state(
    fault: Callable[[], None], workers: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(workplace(tmp_path / "work place"))
    shutil.copytree("photos", "kept")
    edits = ("--force_yml", DISK, f"datasets:train:num_worker_per_gpu={workers}")
    with monkeypatch.context() as patched:
        noisy(patched, once(6, fault), nothing)
        assert run_here("train.py", "-opt", "train.yml", *edits) == 1
    printed = capsys.readouterr().err
    assert "photos/HR/photos_" in printed
    [state] = [path for path in Path("experiments/tiny/training_states").glob("*.state") if int(path.stem) > 4]
    assert f"The state of iteration {state.stem} is saved; continue with --auto_resume" in printed
    assert "datasets.train.on_error: skip" in printed
    assert "Traceback" not in printed
    shutil.rmtree("photos")
    shutil.copytree("kept", "photos")
    noisy(monkeypatch, nothing, nothing)
    assert run_here("train.py", "-opt", "train.yml", *edits, "--auto_resume") == 0
    assert_same_run(undisturbed, Path("experiments/tiny"))


def test_data_that_are_bad_from_the_start_are_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path / "work place"))
    damaged()
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", DISK) == 2
    assert "is saved" not in capsys.readouterr().err
    assert not list(Path("experiments/tiny/training_states").glob("*.state"))


def test_a_full_memory_before_the_first_iteration_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path / "work place"))
    noisy(monkeypatch, nothing, once(1, full))
    assert run_here("train.py", "-opt", "train.yml") == 1
    assert "Nothing is lost: no iteration was done" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr("models.training.players.make_ema", full)
        assert run_here("train.py", "-opt", "train.yml", "--force_yml", "name=second") == 1
    printed = capsys.readouterr().err
    assert "the memory is full: PlainUSR_ultra with its gradients, optimiser and EMA weights on cpu (Default" in printed
    assert run_here("train.py", "-opt", "train.yml", "--check") == 1
    printed = capsys.readouterr().err
    assert printed.count("the check has failed; nothing was written") == 2
    assert "the memory is full: an iteration on cpu, batch 2" in printed
    assert "Traceback" not in printed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_keeps_what_can_be_kept(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a line of metrics.jsonl there is no room for the end, and for a checkpoint there is, or there is not."""
    monkeypatch.chdir(workplace(tmp_path / "work place"))

    def no_room(path: Path, _: object) -> None:
        raise storage_error(path, OSError(errno.ENOSPC, "No space left on device"))

    sound = RecordFile.write

    def seven_lines(file: RecordFile, record: bytes) -> None:
        if b'"step": 7,' in record:
            file._file.write(record[:9])
            file._file.close()
            file._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115  as the one in whose place it is
        sound(file, record)

    with monkeypatch.context() as patched:
        noisy(patched, nothing, nothing)
        patched.setattr(RecordFile, "write", seven_lines)
        assert run_here("train.py", "-opt", "train.yml", "--force_yml", DISK) == 1
        printed = capsys.readouterr().err
        assert "the disk is full: experiments/tiny/metrics.jsonl could not be written; free some space" in printed
        assert "The state of iteration 7 is saved; continue with --auto_resume" in printed
        patched.setattr("models.training.checkpoint.write_checkpoint", no_room)
        assert run_here("train.py", "-opt", "train.yml", "--force_yml", DISK, "name=other") == 1
        printed = capsys.readouterr().err
        assert (
            "other/models/net_g_4.pth could not be written; free some space and resume. Iteration 4 could not"
            in printed
        )
        assert "There is no checkpoint yet" in printed
        assert "Traceback" not in printed
    noisy(monkeypatch, nothing, nothing)
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", DISK, "--auto_resume") == 0
    ours, theirs = (weights(folder / "models/net_g_latest.pth") for folder in (Path("experiments/tiny"), undisturbed))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    lines = [json.loads(line) for line in Path("experiments/tiny/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 13))  # 7 too, from the state
    expected = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [line["l_pix"] for line in lines if line["kind"] == "train"] == [
        line["l_pix"] for line in expected if line["kind"] == "train"
    ]
