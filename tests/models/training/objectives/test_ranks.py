"""Two ranks train as one process with the double batch."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from data.loader import Batch
from models.distributed import World
from models.training.objectives import build_objective
from models.training.run import called_networks
from models.training.state import TrainState
from tests.runs import adversarial
from tests.states import options, state_of

EDITS = (
    "train:optim_g={type: SGD, lr: 1e-2}", "train:optim_d={type: SGD, lr: 1e-2}", "train:accumulate=2",
    "train:wave_opt={type: MSELoss, reduction: sum, loss_weight: 1e-3}",
)  # fmt: skip
ITERATIONS = 3


def fresh() -> TrainState:
    torch.manual_seed(0)
    state = state_of(options(*EDITS))
    for player in state.players.values():
        for network in filter(None, (player.network, player.ema)):
            network.double()
    return state


def batch(rank: int, size: int) -> Batch:
    """Every ``size``-th image of four."""
    generator = torch.Generator().manual_seed(1)
    lq, gt = (torch.rand(4, 3, side, side, generator=generator, dtype=torch.float64) for side in (8, 16))
    return Batch.of_pair(lq[rank::size], gt[rank::size], tuple(f"image_{i}" for i in range(rank, 4, size)), epoch=0)


def trained(world: World) -> dict[str, Any]:
    """Losses of the last iteration, and all weights and buffers after it."""
    state, chosen = fresh(), options(*EDITS)
    objective = build_objective(chosen, state, models=called_networks(state, chosen, world), world=world)
    for _ in range(ITERATIONS):
        result = objective.step(state, batch(world.rank, world.size))
    networks = {name: player.network.state_dict() for name, player in state.players.items()}
    return {"losses": dict(result.losses), "norms": dict(result.grad_norms), **networks}


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)  # those of the process before the fork are not here
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(trained(World(rank, 2)), folder / f"{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of a process with threads; this one has none at work
def test_two_ranks_train_both_players_as_one(place: Path) -> None:
    (place / "train.yml").write_text(adversarial((place / "train.yml").read_text()))
    whole = trained(World())  # first: what it imports, the ranks need not import again
    ranks = [multiprocessing.get_context("fork").Process(target=_rank, args=(rank, place)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    first, second = (torch.load(place / f"{rank}.pth", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name][key], second[name][key]) for name in "gd" for key in first[name])
    torch.testing.assert_close(first, whole, rtol=1e-12, atol=1e-14)
