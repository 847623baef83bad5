"""What is trained, on which losses: an objective owns the step of a training and its named losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import nn

from config.schema import Kind, TrainOptions
from data.loader import Batch
from models.distributed import World
from models.training.finite import FiniteGuard
from models.training.objectives.adversarial import AdversarialObjective
from models.training.objectives.pixel import PixelObjective
from models.training.players import PlayerOptions
from models.training.state import TrainState
from models.training.step import StepResult


class Objective(Protocol):
    """What the loop, ``--check`` and the search for the largest batch know of a training.

    Attributes:
        guard: watches over losses that are not finite.
        cycle: after so many iterations, all players have been trained alike again.
        full_step: the first iteration in which all players are trained, on all their losses.
    """

    guard: FiniteGuard
    cycle: int
    full_step: int

    def step(self, state: TrainState, batch: Batch) -> StepResult:
        """One iteration: ``state``, which alone is mutated, is one iteration further.

        Raises:
            NonFiniteLossError: a loss or gradient is not finite, and such iterations are not to be skipped.
        """

    def summary(self) -> list[str]:
        """What is trained on which losses, a line each."""

    def advice(self, step: int, losses: Mapping[str, float]) -> str | None:
        """What to tell the user about the losses of an iteration that is logged; None: nothing, or it was said before.

        Args:
            step: the iteration.
            losses: its losses by log name.
        """


_OBJECTIVES: Mapping[Kind, type[PixelObjective] | type[AdversarialObjective]] = {
    "pixel": PixelObjective,
    "adversarial": AdversarialObjective,
}


def players_of(options: TrainOptions) -> dict[str, PlayerOptions]:
    """The networks that an option file trains, by name, "g" first.

    Raises:
        InputError: options contradict each other.
    """
    return _OBJECTIVES[options.kind].players(options)


def build_objective(
    options: TrainOptions,
    state: TrainState,
    *,
    models: Mapping[str, nn.Module] | None = None,
    world: World | None = None,
    guard: FiniteGuard | None = None,
) -> Objective:
    """The objective of an option file; :class:`PixelObjective` says what the arguments mean."""
    return _OBJECTIVES[options.kind](options, state, models=models, world=world, guard=guard)


__all__ = ["AdversarialObjective", "Objective", "PixelObjective", "build_objective", "players_of"]
