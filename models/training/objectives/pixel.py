"""One network, one loss between its output and the ground truth."""

from __future__ import annotations

from collections.abc import Mapping

import torch
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
    autocast,
    backward,
    begin_step,
    finish_step,
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
        self.loss = losses.build(options.train.pixel_opt, state.device)

    @staticmethod
    def players(options: TrainOptions) -> dict[str, PlayerOptions]:
        """The generator alone."""
        return {"g": generator_options(options)}

    def step(self, state: TrainState, batch: Batch) -> StepResult:
        """Forward, loss, backward, optimiser, EMA: ``state`` is one iteration further.

        Args:
            state: mutated: the player's weights, EMA, optimiser and scaler, and the position.
            batch: lq [B, C, h, w] and its target "gt" [B, C, s*h, s*w], or of points [B, C, Q, 1]; on the state's
                device.

        Raises:
            InputError: output and ground truth differ in size.
            NonFiniteLossError: see :func:`models.training.step.finish_step`.
        """
        begin_step(state.generator, self.options, state.step + 1)
        terms = {"l_pix": self.world.mean(self._accumulate(state, batch))}
        return finish_step(state, {"g": state.generator}, terms, batch, self.options, self.guard)

    def _accumulate(self, state: TrainState, batch: Batch) -> Tensor:
        """The loss of a batch, detached, after the gradients of its micro-batches have been added up."""
        parts: list[Tensor] = []
        done = 0
        for part in batch.micro_batches(self.options.accumulate):
            done += len(part)
            # Distributed training exchanges gradients once per batch, after its last micro-batch.
            with without_exchange(self.model, when=done < len(batch)):
                with autocast(self.options.amp, state.device):
                    prediction = output_of(self.model, part)
                target = part.targets["gt"]
                if prediction.shape != target.shape:
                    raise InputError(
                        f"the network turns {tuple(part.lq.shape)} into {tuple(prediction.shape)}, "
                        f"but the ground truth is {tuple(target.shape)}; check scale and network_g"
                    )
                share = len(part) / len(batch) if self.loss.reduction == "mean" else 1.0
                loss = self.loss(prediction, target) * share
                backward(loss, state.generator)
            parts.append(loss.detach())
        return torch.stack(parts).sum()  # of the loss's own type: float64 for a float64 network
