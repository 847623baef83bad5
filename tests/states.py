"""Training states for the tests: made of one network, moved by iterations, saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from config import read
from config.schema import TrainOptions
from data.loader import Batch
from models.distributed import World
from models.training.checkpoint import CheckpointFolder
from models.training.finite import FiniteGuard
from models.training.objectives import build_objective, players_of
from models.training.players import build_players, generator_options, make_player
from models.training.saver import Saver
from models.training.state import TrainState
from models.training.step import StepResult

CPU = torch.device("cpu")


class Tiny(nn.Module):
    """The two-convolution network of the recorded experiment of BasicSR."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))
        self.conv = nn.Conv2d(3, 4, 3, 1, 1)
        self.up = nn.Conv2d(4, 12, 3, 1, 1)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device: reading a number out of a tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def options(*overrides: str) -> TrainOptions:
    """The training file of the current folder, with edits."""
    return read(Path("train.yml"), overrides, mode="train")


def state_of(options: TrainOptions, network: nn.Module | None = None, device: torch.device = CPU) -> TrainState:
    """The state before the first iteration; of the options' networks, or of a generator alone that is another one."""
    if network is None:
        return TrainState(build_players(players_of(options), options, device), device)
    return TrainState({"g": make_player(network, generator_options(options), options, device)}, device)


def iterate(
    state: TrainState,
    batch: Batch,
    options: TrainOptions,
    *,
    model: nn.Module | None = None,
    guard: FiniteGuard | None = None,
) -> StepResult:
    """One iteration of the options' objective; ``model`` is called in the generator's place."""
    models = {name: player.network for name, player in state.players.items()}
    if model is not None:
        models["g"] = model
    return build_objective(options, state, models=models, guard=guard).step(state, batch)


def save(folder: CheckpointFolder, state: TrainState, options: TrainOptions) -> None:
    """Write a checkpoint and wait until it is on the disk."""
    saver = Saver(folder, options, World())
    saver.save(state)
    saver.close()


def moved_state(options: TrainOptions, step: int, network: nn.Module | None = None) -> TrainState:
    """A state of some iteration whose optimiser has moments; of the two convolutions where no network is given."""
    torch.manual_seed(step)
    state = state_of(options, Tiny() if network is None else network)
    for parameter in state.generator.network.parameters():
        parameter.grad = torch.rand_like(parameter)
    state.generator.optimizer.step()
    state.step = state.validated = step
    return state
