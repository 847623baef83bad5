"""What happens to the training of two players: all of it goes on, and ends with the bits of the undisturbed one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.training import checkpoint, step
from models.training.checkpoint import CheckpointFolder
from models.training.objectives import AdversarialObjective
from models.training.state import Player, TrainState
from models.weights.files import read_checkpoint, write_checkpoint
from scripts.faults.settings import Setting, chosen, make_place
from scripts.faults.verify import compare
from tests.runs import run_here
from utils.files import storage_error

SETTING = Setting("two players", chosen(["GAN, degradation pool"])[0].changes, steps=12)
TRAIN = ("train.py", "-opt", "train.yml")
Fault = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training of twelve iterations: of a generator with EMA and a discriminator, from a pool."""
    folder = tmp_path_factory.mktemp("two players")
    make_place(folder, SETTING)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_here(*TRAIN) == 0
    return folder


@pytest.fixture
def disturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, for the same training."""
    make_place(tmp_path, SETTING)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def full(*_: object, **__: object) -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you")


def before_step(patch: pytest.MonkeyPatch, number: int, happens: Callable[[AdversarialObjective], object]) -> None:
    """Let something happen when an iteration begins."""
    sound = AdversarialObjective.step

    def disturbed(objective: AdversarialObjective, state: TrainState, batch: Any) -> Any:
        if state.step + 1 == number:
            happens(objective)
        return sound(objective, state, batch)

    patch.setattr(AdversarialObjective, "step", disturbed)


def memory_in_the_last_pass(patch: pytest.MonkeyPatch) -> None:
    """When the vectors of the discriminator have moved three times, and both have gradients."""

    def last_pass(objective: AdversarialObjective) -> None:
        sound, passes = AdversarialObjective._logits, 0

        def logits(own: AdversarialObjective, network: Any, image: Tensor) -> Tensor:
            nonlocal passes
            passes += 1
            found = sound(own, network, image)
            if passes >= 3:
                full()
            return found

        patch.setattr(AdversarialObjective, "_logits", logits)

    before_step(patch, 10, last_pass)


def memory_between_the_moves(patch: pytest.MonkeyPatch) -> None:
    """When the generator has moved, and the discriminator has not."""
    sound, moved = step._move, 0

    def move(player: Player, bad: Tensor | None) -> None:
        nonlocal moved
        moved += 1
        sound(player, bad) if moved < 2 else full()

    before_step(patch, 10, lambda _: patch.setattr(step, "_move", move))


def stop(patch: pytest.MonkeyPatch) -> None:
    before_step(patch, 10, lambda _: os.kill(os.getpid(), signal.SIGTERM))


def no_room_for_the_discriminator(patch: pytest.MonkeyPatch) -> None:
    sound = write_checkpoint

    def write(path: Path, content: Any) -> None:
        if path.name.startswith("net_d") and path.name != "net_d_4.pth":
            raise storage_error(path, OSError(errno.ENOSPC, "No space left on device"))
        sound(path, content)

    patch.setattr(checkpoint, "write_checkpoint", write)


@pytest.mark.parametrize(
    ("fault", "code", "said", "saved"),
    [
        (memory_in_the_last_pass, 1, "The state of iteration 9 is saved", 9),
        (memory_between_the_moves, 1, "Iteration 10 had begun to change the weights, so that they are not saved", 8),
        (stop, 143, "stopped at iteration 10", 10),
        (no_room_for_the_discriminator, 1, "tiny/models/net_d_8.pth could not be written; free some space", 4),
    ],
)
def test_a_training_that_is_cut_short_ends_with_the_same_bits(
    fault: Fault, code: int, said: str, saved: int, undisturbed: Path, disturbed: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        fault(patch)
        assert run_here(*TRAIN) == code
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed
    assert CheckpointFolder(disturbed / "experiments/tiny").steps()[0] == saved
    assert run_here(*TRAIN, "--auto_resume") == 0
    assert compare(undisturbed, disturbed, SETTING) == []


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def not_finite(path: Path) -> None:
    content = read_checkpoint(path)
    content["params"]["conv1.weight_u"][0] = torch.nan
    write_checkpoint(path, content)


def of_the_generator(path: Path) -> None:
    shutil.copy(path.with_name("net_g_12.pth"), path)


def cut_moments(path: Path) -> None:
    content = read_checkpoint(path)
    content["optimizers"][1]["state"][0]["exp_avg"] = torch.zeros(1)
    write_checkpoint(path, content)


def other_order(path: Path) -> None:
    content = read_checkpoint(path)
    content["optimizers"].reverse()
    write_checkpoint(path, content)


DAMAGES = [
    ("models/net_d_12.pth", Path.unlink), ("models/net_d_12.pth", flipped), ("models/net_d_12.pth", not_finite),
    ("models/net_d_12.pth", of_the_generator), ("training_states/12.state", cut_moments),
    ("training_states/12.state", other_order),
]  # fmt: skip


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_a_damaged_file_of_the_discriminator_costs_the_newest_state_alone(
    file: str, damage: Callable[[Path], None], undisturbed: Path, disturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed / "experiments", "experiments")
    damage(Path("experiments/tiny", file))
    assert run_here(*TRAIN, "--auto_resume", "--force_yml", "val=~") == 0
    printed = capsys.readouterr().err
    assert printed.count("WARNING: skipped: ") == 1
    assert "resumed from experiments/tiny/training_states/8.state at iteration 8" in printed
    mine, theirs = (
        read_checkpoint(place / "experiments/tiny/models/net_d_12.pth")["params"] for place in (disturbed, undisturbed)
    )
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())


def test_a_state_of_two_players_is_none_of_one(
    undisturbed: Path, disturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed / "experiments", "experiments")
    single = ("model_type=SRModel", "network_d=~", "train:gan_opt=~", "train:ldl_opt=~")
    assert run_here(*TRAIN, "--auto_resume", "--force_yml", *single) == 2
    assert "holds the training of g, d, and this option file trains g; begin a new run" in capsys.readouterr().err
    assert [path.name for path in Path("experiments").iterdir()] == ["tiny"]  # nothing was renamed


def test_swapped_pretraining_files_are_told_apart(
    undisturbed: Path, disturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = undisturbed / "experiments/tiny/models"
    for player, other in ("gd", "dg"):
        swapped = f"path:pretrain_network_{player}={networks / f'net_{other}_12.pth'}"
        assert run_here(*TRAIN, "--force_yml", swapped) == 2
        assert f"it belongs to path.pretrain_network_{other}" in capsys.readouterr().err
    assert not Path("experiments").exists()


def test_a_changed_optimiser_of_the_discriminator_is_followed(
    undisturbed: Path, disturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed / "experiments", "experiments")
    edits = ("val=~", "train:total_iter=13", "train:optim_d:lr=5e-4", "train:optim_d:betas=[0.5, 0.9]")
    assert run_here(*TRAIN, "--auto_resume", "--force_yml", *edits) == 0
    printed = capsys.readouterr().err
    assert "the resumed run goes on with train.optim_d.lr: 0.0005 (was 0.001)" in printed
    assert "the resumed run goes on with train.optim_d.betas: [0.5, 0.9] (was [0.9, 0.99])" in printed
    generator, discriminator = read_checkpoint(Path("experiments/tiny/training_states/13.state"))["optimizers"]
    groups = generator["param_groups"][0], discriminator["param_groups"][0]
    assert [(group["initial_lr"], tuple(group["betas"])) for group in groups] == [
        (2e-3, (0.9, 0.99)), (5e-4, (0.5, 0.9)),
    ]  # fmt: skip
    assert {float(moments["step"]) for moments in discriminator["state"].values()} == {13.0}  # its moments stay
