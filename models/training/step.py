"""What the iterations of all objectives consist of: rates, gradients, the check that all is finite, the move."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from config.schema import TrainingOptions
from data.loader import Batch
from models.training.ema import decay_of, update_ema
from models.training.finite import FiniteGuard, Suspect
from models.training.schedule import learning_rate
from models.training.state import Player, TrainState

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """What one iteration did.

    Attributes:
        step: its number, from 1.
        losses: loss terms by their log names (``l_pix``), scalars on the device.
        grad_norm: L2 norm of the generator's gradient before clipping; None when the iteration was skipped.
        lr: learning rate of each parameter group of the generator.
        skipped: loss or gradient was not finite and nothing was changed (a deferred guard finds out later).
    """

    step: int
    losses: Mapping[str, Tensor]
    grad_norm: Tensor | None
    lr: tuple[float, ...]
    skipped: bool = False


def begin_step(player: Player, options: TrainingOptions, step: int) -> tuple[float, ...]:
    """Give a player the learning rate of iteration ``step`` and forget its gradients; returns the rates."""
    rates = set_learning_rate(player.optimizer, options, step)
    player.optimizer.zero_grad(set_to_none=True)
    return rates


def finish_step(
    state: TrainState,
    moved: Mapping[str, Player],
    losses: Mapping[str, Tensor],
    batch: Batch,
    options: TrainingOptions,
    guard: FiniteGuard,
) -> StepResult:
    """Clip the gradients, look whether all is finite, and only then move optimisers and EMA weights.

    Args:
        state: mutated: its players, and the position.
        moved: the players whose gradients are complete, the generator among them or not.
        losses: all terms by name, means over the ranks.
        batch: what they come from.
        options: clipping, decay of the EMA.
        guard: decides what happens when something is not finite.

    Raises:
        NonFiniteLossError: loss or gradient is not finite, ``train.nonfinite`` is ``stop`` and the guard looks at once.
    """
    step = state.step + 1
    norms = {name: _clipped_norm(player, options.grad_clip) for name, player in moved.items()}
    finite = torch.stack([loss.isfinite() for loss in losses.values()]).all()
    for name, player in moved.items():
        if player.scaler is None:  # which expects overflows now and then, and leaves those steps out by itself
            finite = finite & norms[name].isfinite()
    grad_norm = norms.get("g", next(iter(norms.values())))
    rates = tuple(group["lr"] for group in state.generator.optimizer.param_groups)
    # On all ranks alike: the mean of anything with NaN or inf is neither finite, and gradients are means too.
    guard.watch(Suspect(step, ~finite, losses, grad_norm, batch.names))
    if not guard.deferred and guard.check():
        state.step, state.epoch, state.skipped = step, batch.epoch, state.skipped + 1
        for player in moved.values():
            if player.scaler is not None:
                player.scaler.update()  # forgets the gradients that were unscaled
        return StepResult(step, losses, None, rates, skipped=True)
    state.moving = True  # until all have moved; an error in between leaves nothing that could be saved
    for player in moved.values():
        _move(player, ~finite if guard.deferred else None)
    for player in state.players.values():
        if player.ema_tensors is not None:
            update_ema(player.ema_tensors, player.tensors, decay_of(options, state.step))
    state.step, state.epoch, state.moving = step, batch.epoch, False
    return StepResult(step, losses, grad_norm, rates)


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


def set_learning_rate(optimizer: torch.optim.Optimizer, options: TrainingOptions, step: int) -> tuple[float, ...]:
    """Give every parameter group the rate of iteration ``step``; returns the rates."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(options, group["initial_lr"], step)
    return tuple(group["lr"] for group in optimizer.param_groups)


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


def _move(player: Player, bad: Tensor | None) -> None:
    """The optimiser's step; ``bad`` is a flag on the device that leaves it out."""
    optimizer = player.optimizer
    if player.scaler is not None:
        player.scaler.step(optimizer)
        player.scaler.update()
        return
    if bad is None:
        optimizer.step()
        return
    # The way in which a gradient scaler tells torch's fused optimisers.
    fused: Any = optimizer
    fused.found_inf, fused.grad_scale = bad.float(), None
    try:
        optimizer.step()
    finally:
        del fused.found_inf, fused.grad_scale
