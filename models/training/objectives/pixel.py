"""One network, one loss between its output and the ground truth."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

import losses
from config.schema import TrainOptions
from data.loader import Batch
from models.distributed import World
from models.training.finite import FiniteGuard
from models.training.players import PlayerOptions, generator_options
from models.training.state import TrainState
from models.training.step import (
    StepResult,
    Sums,
    autocast,
    backward,
    check_output,
    finish_step,
    iteration,
    output_of,
    without_exchange,
)
from utils.errors import InputError


class PixelObjective:
    """``train.pixel_opt`` of every batch, logged as ``l_pix``.

    A batch may be computed in micro-batches (``train.accumulate``): the gradient is that of the whole batch.

    Args:
        options: loss, schedule, clipping, precision, EMA decay.
        state: whose player "g" is trained.
        models: the networks as they are called, by player: compiled, inside their wrappers for distributed training;
            default: as they are in the state.
        world: the processes that train together; the loss reported and checked is their mean.
        guard: watches over losses that are not finite; by default one that looks at every iteration.
    """

    def __init__(
        self,
        options: TrainOptions,
        state: TrainState,
        *,
        models: Mapping[str, nn.Module] | None = None,
        world: World | None = None,
        guard: FiniteGuard | None = None,
    ) -> None:
        self.options = options.train
        self.model = state.generator.network if models is None else models["g"]
        self.world = world or World()
        self.guard = guard or FiniteGuard(deferred=False, skip=options.train.nonfinite == "skip")
        if options.train.pixel_opt is None:
            raise InputError("train.pixel_opt: the key is missing; expected a loss to train on")
        self.loss = losses.build(options.train.pixel_opt, state.device)

    @staticmethod
    def players(options: TrainOptions) -> dict[str, PlayerOptions]:
        """The generator alone."""
        return {"g": generator_options(options)}

    def step(self, state: TrainState, batch: Batch) -> StepResult:
        """Forward, losses, backward, optimiser, EMA: ``state`` is one iteration further.

        Args:
            state: mutated: the player's weights, EMA, optimiser and scaler, and the position.
            batch: lq [B, C, h, w] and its target "gt" [B, C, s*h, s*w], or of points [B, C, Q, 1]; on the state's
                device.

        Raises:
            InputError: output and ground truth differ in size.
            NonFiniteLossError: see :func:`models.training.step.finish_step`.
        """
        with iteration(state, self.options):
            terms = {"g": self.world.means(self._accumulate(state, batch))}
            return finish_step(state, terms, batch, self.options, self.guard)

    def _accumulate(self, state: TrainState, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch, detached, after the gradients of its micro-batches have been added up."""
        sums = Sums()
        done = 0
        for part in batch.micro_batches(self.options.accumulate):
            done += len(part)
            # Distributed training exchanges gradients once per batch, after its last micro-batch.
            with without_exchange(self.model, when=done < len(batch)):
                with autocast(self.options.amp, state.device):
                    output = output_of(self.model, part)
                check_output(output, part)
                share = len(part) / len(batch) if self.loss.reduction == "mean" else 1.0
                loss = self.loss(output, part.gt) * share
                backward(loss, state.generator)
            sums.add({"l_pix": loss})
        return sums.values
