"""One network, and any number of losses of its output."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from config.schema import TrainOptions
from data.loader import Batch
from models.distributed import World
from models.training.finite import FiniteGuard
from models.training.objectives.terms import GeneratorTerms, total_of, with_sharpened
from models.training.players import PlayerOptions, generator_options
from models.training.state import TrainState
from models.training.step import (
    StepResult,
    Sums,
    autocast,
    backward,
    check_output,
    ema_output,
    finish_step,
    iteration,
    output_of,
    without_exchange,
)


class PixelObjective:
    """``train.pixel_opt`` and the other losses of the output, logged as ``l_pix`` and so on.

    A batch may be computed in micro-batches (``train.accumulate``): the gradient is that of the whole batch.

    Args:
        options: losses, schedule, clipping, precision, EMA decay.
        state: whose player "g" is trained.
        models: the networks as they are called, by player: compiled, inside their wrappers for distributed training;
            default: as they are in the state.
        world: the processes that train together; the losses reported and checked are their means.
        guard: watches over losses that are not finite; by default one that looks at every iteration.

    Raises:
        InputError: the weights of a loss cannot be read.
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
        self.terms = GeneratorTerms(options, state.device, ranks=self.world.size)
        self.cycle, self.full_step = 1, self.terms.full_step

    def summary(self) -> list[str]:
        """The losses."""
        return [f"losses: {', '.join(self.terms.described('l_'))}"]

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

    def advice(self, step: int, losses: Mapping[str, float]) -> str | None:
        """Nothing: no other player can win."""
        return None

    def _accumulate(self, state: TrainState, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch, detached, after the gradients of its micro-batches have been added up."""
        step, sums = state.step + 1, Sums()
        if "gt_usm" in self.terms.targets:
            batch = with_sharpened(batch)
        done = 0
        for part in batch.micro_batches(self.options.accumulate):
            done += len(part)
            average = ema_output(state, part, self.options) if self.terms.needs_ema(step) else None
            # Distributed training exchanges gradients once per batch, after its last micro-batch.
            with without_exchange(self.model, when=done < len(batch)):
                with autocast(self.options.amp, state.device):
                    output = output_of(self.model, part)
                check_output(output, part)
                found = self.terms(output, part.targets, average, step, share=len(part) / len(batch))
                backward(total_of(found, output), state.generator)
            sums.add({f"l_{name}": value for name, value in found.items()})
        return sums.values
