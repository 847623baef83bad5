"""Training states for the tests: made of one network, moved by iterations, saved."""

from __future__ import annotations

import torch
from torch import nn

from archs import build_network
from config.schema import TrainOptions
from data.loader import Batch
from models.distributed import World
from models.training.checkpoint import CheckpointFolder
from models.training.finite import FiniteGuard
from models.training.objectives import build_objective
from models.training.players import generator_options, make_player
from models.training.saver import Saver
from models.training.state import TrainState
from models.training.step import StepResult

CPU = torch.device("cpu")


def state_of(options: TrainOptions, network: nn.Module | None = None, device: torch.device = CPU) -> TrainState:
    """The state before the first iteration, of the options' network or another one."""
    own = generator_options(options)
    return TrainState({"g": make_player(network or build_network(own.network), own, options, device)}, device)


def iterate(
    state: TrainState,
    batch: Batch,
    options: TrainOptions,
    *,
    model: nn.Module | None = None,
    guard: FiniteGuard | None = None,
) -> StepResult:
    """One iteration of the options' objective; ``model`` is called in the network's place."""
    models = None if model is None else {"g": model}
    return build_objective(options, state, models=models, guard=guard).step(state, batch)


def save(folder: CheckpointFolder, state: TrainState, options: TrainOptions) -> None:
    """Write a checkpoint and wait until it is on the disk."""
    saver = Saver(folder, options, World())
    saver.save(state)
    saver.close()
