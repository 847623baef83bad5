"""The recorded trainings of the published code, met in float64."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from config.schema import TrainOptions
from models.distributed import World
from models.training.checkpoint import CheckpointFolder, apply_resume, read_resume
from models.training.objectives import build_objective, players_of
from models.training.players import build_players
from models.training.state import TrainState
from tests.recorded_training import Recording, default_float64
from tests.states import CPU, save

RTOL = 1e-9
"""A relative perturbation of 1e-12 of all weights changes the recorded values by up to 4e-10."""

TRAININGS = [
    "train_esc_x2_d_iters", "train_srgan", "train_esrgan_vgg", "train_ldl", "train_esr_mesa",
]  # fmt: skip
"""And train_hat_x4, which is resumed too."""


@pytest.mark.shared
@pytest.mark.parametrize("name", TRAININGS)
def test_recorded_training(name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recording = Recording.open(shared / "golden/gan", name)
    options = recording.options()
    state = recording.state(options)
    objective = build_objective(options, state)
    for batch in recording.batches():
        recording.assert_logged(objective.step(state, batch), RTOL)
        if state.step == 1:
            recording.assert_gradients(state, RTOL)
    recording.assert_final(state, RTOL)


def weights(state: TrainState) -> list[Tensor]:
    networks = [network for player in state.players.values() for network in (player.network, player.ema) if network]
    return [tensor for network in networks for tensor in network.state_dict().values()]


def fresh(options: TrainOptions) -> TrainState:
    """A state with first weights of its own."""
    with default_float64():
        state = TrainState(build_players(players_of(options), options, CPU), CPU)
    for player in state.players.values():
        player.network.double()
        if player.ema is not None:
            player.ema.double()
    return state


@pytest.mark.shared
def test_a_recorded_training_resumes_to_the_last_bit(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recording = Recording.open(shared / "golden/gan", "train_hat_x4")
    options, folder = recording.options(), CheckpointFolder(Path("experiments/x"))
    state = recording.state(options)
    objective = build_objective(options, state)
    for batch in recording.batches():
        recording.assert_logged(objective.step(state, batch), RTOL)
        if state.step == 1:
            recording.assert_gradients(state, RTOL)
        if state.step == 3:
            save(folder, state, options)
    recording.assert_final(state, RTOL)
    resumed = fresh(options)
    apply_resume(resumed, read_resume(folder.state(3), options.path), options, World())
    assert resumed.step == 3
    objective = build_objective(options, resumed)
    for batch in itertools.islice(recording.batches(), 3, None):
        objective.step(resumed, batch)
    assert all(torch.equal(a, b) for a, b in zip(weights(state), weights(resumed), strict=True))
    _assert_files(folder, json.loads((shared / "golden/gan/train_files.json").read_text()))


def _assert_files(folder: CheckpointFolder, expected: dict[str, Any]) -> None:
    """What is saved after iteration 3 is what BasicSR saves, with what it does not look at."""
    files = {path.name for path in (*folder.networks.iterdir(), *folder.states.iterdir())}
    assert files == set(expected["files"])
    generator = torch.load(folder.network(3), weights_only=True)
    count = expected["net_g_3.pth"]["params"].split()[0]
    # Without the two tables of indices that follow from the network's arguments.
    assert [f"{len(generator[key]) + 2} tensors" for key in ("params", "params_ema")] == [f"{count} tensors"] * 2
    discriminator = torch.load(folder.network(3, "d"), weights_only=True)
    assert list(discriminator["params"]) == expected["net_d_3.pth"]["params"]
    state = torch.load(folder.state(3), weights_only=True)
    assert (state["epoch"], state["iter"]) == (0, 3)
    for saved, wanted in zip(state["optimizers"], expected["3.state"]["optimizers"], strict=True):
        (group,), (like,) = saved["param_groups"], wanted["param_groups"]
        assert set(group) >= set(like) - {"decoupled_weight_decay"}  # which torch 2.6 does not have
        assert f"list 0 .. {len(group['params']) - 1}" == like["params"]
        assert (group["lr"], group["initial_lr"]) == (5e-4, 1e-3)
        (moments,) = wanted["state"].values()
        assert all(set(values) == set(moments) for values in saved["state"].values())
    for saved, wanted in zip(state["schedulers"], expected["3.state"]["schedulers"], strict=True):
        assert {**saved["milestones"]} == {2: 1, 4: 1}
        same = ("gamma", "base_lrs", "last_epoch", "_step_count", "_last_lr")
        assert [_written(saved[key]) for key in same] == [wanted[key] for key in same]


def _written(value: Any) -> Any:
    """A value as the recording writes it: its type, then itself."""
    return [_written(item) for item in value] if isinstance(value, list) else f"{type(value).__name__} {value}"
