"""What the iterations of all objectives consist of: rates, gradients, the check that all is finite, the move."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from config.schema import TrainingOptions
from data.loader import Batch
from models.training.ema import decay_of, update_ema
from models.training.finite import FiniteGuard, Suspect
from models.training.optim import reset_momentum
from models.training.schedule import learning_rate
from models.training.state import Player, TrainState
from utils.eager import step
from utils.errors import InputError

_HALVED_AFTER = 50_000
"""The iteration after which ``train.gradient_clip`` counts half, whatever ``total_iter`` is."""

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """What one iteration did.

    Attributes:
        step: its number, from 1.
        losses: loss terms by their log names (``l_pix``), scalars on the device.
        grad_norms: player -> L2 norm of its gradient before clipping; without those that did not move, and empty when
            the iteration was skipped.
        rates: player -> learning rate of each of its parameter groups.
        skipped: loss or gradient was not finite and nothing was changed (a deferred guard finds out later).
    """

    step: int
    losses: Mapping[str, Tensor]
    grad_norms: Mapping[str, Tensor]
    rates: Mapping[str, tuple[float, ...]]
    skipped: bool = False

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm of the generator's gradient; None where it did not move."""
        return self.grad_norms.get("g")

    @property
    def lr(self) -> tuple[float, ...]:
        """The learning rate of each parameter group of the generator."""
        return self.rates["g"]


@contextlib.contextmanager
def iteration(state: TrainState, options: TrainingOptions) -> Iterator[None]:
    """Around the next iteration: each player gets its learning rate and forgets its gradients.

    Where the iteration does not come to its end (memory, a loss that is not finite), buffers of the networks are put
    back and gradients dropped: the state is the one before, unless ``state.moving`` says that it is not.
    """
    for player in state.players.values():
        set_learning_rate(player.optimizer, options, state.step + 1)
        player.optimizer.zero_grad(set_to_none=True)
        player.buffers.keep()
    try:
        yield
    except BaseException:
        for player in state.players.values():
            if not state.moving:
                player.buffers.put_back()
            player.optimizer.zero_grad(set_to_none=True)
            if player.scaler is not None:
                player.scaler._per_optimizer_states.clear()  # that gradients were unscaled; nothing public does it
        raise


def finish_step(
    state: TrainState,
    losses: Mapping[str, Mapping[str, Tensor]],
    batch: Batch,
    options: TrainingOptions,
    guard: FiniteGuard,
) -> StepResult:
    """Clip the gradients, look whether all is finite, and only then move optimisers and EMA weights.

    Where something is not finite, no player moves, and buffers are as before the iteration.

    Args:
        state: mutated: its players, and the position.
        losses: player -> its loss terms by log name, means over the ranks; of the players whose gradients are complete,
            the generator among them or not.
        batch: what they come from.
        options: clipping, decay of the EMA.
        guard: decides what happens when something is not finite.

    Raises:
        NonFiniteLossError: loss or gradient is not finite, ``train.nonfinite`` is ``stop`` and the guard looks at once.
    """
    step = state.step + 1
    moved = {name: state.players[name] for name in losses}
    terms = {name: value for own in losses.values() for name, value in own.items()}
    norms = {name: _clipped_norm(player, clip_limit(options, name, step)) for name, player in moved.items()}
    finite = torch.stack([loss.isfinite() for loss in terms.values()]).all()
    for name, player in moved.items():
        if player.scaler is None:  # which expects overflows now and then, and leaves those steps out by itself
            finite = finite & norms[name].isfinite()
    rates = {name: rates_of(player.optimizer) for name, player in state.players.items()}
    # On all ranks alike: the mean of anything with NaN or inf is neither finite, and gradients are means too.
    guard.watch(Suspect(step, ~finite, losses, norms, batch.names))
    if not guard.deferred and guard.check():
        state.step, state.epoch, state.skipped = step, batch.epoch, state.skipped + 1
        for player in moved.values():
            if player.scaler is not None:
                player.scaler.update()  # forgets the gradients that were unscaled
        for player in state.players.values():
            player.buffers.put_back()
        return StepResult(step, terms, {}, rates, skipped=True)
    state.moving = True  # until all have moved; an error in between leaves nothing that could be saved
    bad = ~finite if guard.deferred else None
    for player in moved.values():
        _move(player, bad)
    for player in state.players.values():
        if bad is not None:
            player.buffers.put_back(bad)
        if player.ema_tensors is not None:
            update_ema(player.ema_tensors, player.tensors, decay_of(options, state.step))
    if options.reset_momentum_iter is not None and step % options.reset_momentum_iter == 0:
        reset_momentum(state.generator.optimizer)
    state.step, state.epoch, state.moving = step, batch.epoch, False
    return StepResult(step, terms, norms, rates)


def output_of(model: nn.Module, batch: Batch) -> Tensor:
    """What a generator makes of a batch: images, or the colours of the points that the batch asks for."""
    output: Tensor = model(batch.lq) if batch.queries is None else model(batch.lq, queries=batch.queries)
    return output


def autocast(amp: str | None, device: torch.device) -> AbstractContextManager[Any]:
    """Automatic mixed precision as ``train.amp`` names it; nothing for None."""
    return contextlib.nullcontext() if amp is None else torch.autocast(device.type, AMP[amp])


def without_exchange(model: nn.Module, *, when: bool) -> AbstractContextManager[Any]:
    """Gradients of a distributed model stay on their rank where ``when`` says so: all micro-batches but the last."""
    distributed = isinstance(model, nn.parallel.DistributedDataParallel)
    return model.no_sync() if distributed and when else contextlib.nullcontext()  # type: ignore[operator]


def backward(loss: Tensor, player: Player) -> None:
    """Add the gradient of a loss to a player's, scaled where float16 needs it."""
    (loss if player.scaler is None else player.scaler.scale(loss)).backward()


@torch.no_grad()
def ema_output(state: TrainState, batch: Batch, options: TrainingOptions) -> Tensor:
    """What the EMA weights, as they stand before the iteration, make of a batch."""
    ema = state.generator.ema
    assert ema is not None
    with autocast(options.amp, state.device):
        return output_of(ema, batch)


def check_output(output: Tensor, batch: Batch) -> None:
    """Raise InputError where the output of the generator has not the size of the ground truth."""
    if output.shape != batch.gt.shape:
        raise InputError(
            f"the network turns {tuple(batch.lq.shape)} into {tuple(output.shape)}, but the ground truth is "
            f"{tuple(batch.gt.shape)}; check scale and network_g"
        )


class Sums:
    """Sums of named numbers over the micro-batches of a batch, detached, of their own type: float64 stays float64."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one of each."""
        for name, value in values.items():
            self.values[name] = self.values[name] + value.detach() if name in self.values else value.detach()


def set_learning_rate(optimizer: torch.optim.Optimizer, options: TrainingOptions, step: int) -> None:
    """Give every parameter group the rate of iteration ``step``."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(options, group["initial_lr"], step)


def rates_of(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    """The learning rate of each parameter group."""
    return tuple(group["lr"] for group in optimizer.param_groups)


def clip_limit(options: TrainingOptions, player: str, step: int) -> float | None:
    """The largest norm of a player's gradient in an iteration; None: any.

    ``train.gradient_clip`` is that of ESC's ESRModel, which halves it after a fixed number of iterations.
    """
    if player == "d":
        return options.grad_clip_d
    halved = None if options.gradient_clip is None else options.gradient_clip / (2 if step > _HALVED_AFTER else 1)
    limits = [limit for limit in (options.grad_clip, halved) if limit is not None]
    return min(limits, default=None)


def _clipped_norm(player: Player, limit: float | None) -> Tensor:
    """The norm of a player's gradient, which is then scaled down to the limit if there is one."""
    if player.scaler is not None:
        player.scaler.unscale_(player.optimizer)
    return _clip([p for p in player.tensors.parameters if p.grad is not None], limit)


def _clip(parameters: Sequence[Tensor], limit: float | None) -> Tensor:
    gradients = [p.grad for p in parameters if p.grad is not None]
    # nn.utils.get_total_norm in the case of one device and type, without its sorting, which takes as long again.
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if limit is not None:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


@contextlib.contextmanager
def _left_out(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, bad: Tensor | None) -> Iterator[None]:
    """Around a scaled step: where ``bad`` says so it is left out, as if this player's gradients had overflowed.

    The scale does not learn of it: what is not finite may be of another player. Nothing public tells a scaler.
    """
    if bad is None:
        yield
        return
    own = scaler._per_optimizer_states[id(optimizer)]
    overflows = own["found_inf_per_device"]
    own["found_inf_per_device"] = {device: torch.maximum(found, bad.to(found)) for device, found in overflows.items()}
    try:
        yield
    finally:
        own["found_inf_per_device"] = overflows


def _move(player: Player, bad: Tensor | None) -> None:
    """The optimiser's step; ``bad`` is a flag on the device that leaves it out."""
    if player.scaler is not None:
        with _left_out(player.scaler, player.optimizer, bad):
            player.scaler.step(player.optimizer)
        player.scaler.update()
    elif bad is None:
        step(player.optimizer)
    else:
        # The way in which a gradient scaler tells torch's fused optimisers.
        fused: Any = player.optimizer
        fused.found_inf, fused.grad_scale = bad.float(), None
        try:
            step(player.optimizer)
        finally:
            del fused.found_inf, fused.grad_scale
    # torch's fused optimisers leave no trace in a parameter's version, by which ops.Memo knows that a value which a
    # network keeps for passes without gradients has to be computed again.
    torch.autograd.graph.increment_version(player.tensors.parameters)
