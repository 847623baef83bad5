"""A training that BasicSR has begun goes on here: its checkpoint and state, as it writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import archs
from config import read
from config.schema import PathOptions
from models.distributed import World
from models.training import checkpoint
from models.training.checkpoint import CheckpointFolder, apply_resume
from tests.runs import workplace
from tests.states import state_of


def test_weights_moments_and_iteration_of_a_basicsr_state_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    options = read(Path("train.yml"), mode="train")
    described = options.network_g.as_mapping()
    theirs = archs.build_network(described)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    theirs(torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    folder = CheckpointFolder(tmp_path / "theirs")
    folder.networks.mkdir(parents=True)
    folder.states.mkdir()
    weights = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"params": weights, "params_ema": weights}, folder.network(500))
    schedule = {
        "milestones": {},
        "gamma": 0.5,
        "restarts": [0],
        "base_lrs": [1e-3],
        "last_epoch": 500,
        "_step_count": 501,
    }
    state = {"epoch": 3, "iter": 500, "optimizers": [optimizer.state_dict()], "schedulers": [schedule]}
    torch.save(state, folder.state(500))

    resume = checkpoint.find_resume(folder, PathOptions(), World())
    assert resume is not None
    ours = state_of(options)
    apply_resume(ours, resume, options, World())
    assert (ours.step, ours.epoch) == (500, 3)
    for mine, other in zip(ours.generator.network.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)
        moments = ours.generator.optimizer.state[mine], optimizer.state[other]
        assert torch.equal(moments[0]["exp_avg_sq"], moments[1]["exp_avg_sq"])
