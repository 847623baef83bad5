"""One iteration of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.loader import Batch
from models.distributed import World
from models.ema import update_ema
from models.schedule import learning_rate
from models.state import TrainState
from options.schema import TrainOptions
from utils.errors import InputError


@dataclass(frozen=True)
class StepResult:
    """What one iteration did.

    Attributes:
        step: its number, from 1.
        losses: loss terms by their log names (``l_pix``), scalars on the device.
        grad_norm: L2 norm of the gradient before clipping; None when it was not asked for.
        lr: learning rate of each parameter group.
        skipped: the loss was not finite and nothing was changed.
    """

    step: int
    losses: Mapping[str, Tensor]
    grad_norm: Tensor | None
    lr: tuple[float, ...]
    skipped: bool = False


class NonFiniteLossError(ArithmeticError):
    """The loss of an iteration is infinite or not a number; the optimiser has not moved."""


def train_step(
    state: TrainState,
    batch: Batch,
    options: TrainOptions,
    *,
    model: nn.Module | None = None,
    world: World | None = None,
    norm: bool = False,
) -> StepResult:
    """Forward, loss, backward, optimiser, EMA.

    Args:
        state: mutated: weights, average, optimiser, step.
        batch: lq [B,3,h,w] and gt [B,3,s*h,s*w] on the state's device.
        options: loss, schedule, clipping, EMA decay.
        model: the network inside its wrapper for distributed training; default ``state.network``.
        world: the processes that train together; the loss reported and checked is their mean.
        norm: also compute the gradient norm.

    Raises:
        NonFiniteLossError: the loss is not finite and ``train.nonfinite`` is ``stop``.
    """
    step = state.step + 1
    rates = set_learning_rate(state.optimizer, options, step)
    state.optimizer.zero_grad(set_to_none=True)
    prediction = (model or state.network)(batch.lq)
    if prediction.shape != batch.gt.shape:
        raise InputError(
            f"the network turns {tuple(batch.lq.shape)} into {tuple(prediction.shape)}, "
            f"but the ground truth is {tuple(batch.gt.shape)}; check scale and network_g"
        )
    loss = options.train.pixel_opt(prediction, batch.gt)
    shared = loss.detach() if world is None else world.mean(loss.detach())
    losses = {"l_pix": shared}
    state.step, state.epoch = step, batch.epoch
    if not bool(torch.isfinite(shared)):  # on all ranks alike, since the mean of anything with NaN or inf is neither
        return _not_finite(state, batch, options, losses, rates)
    loss.backward()
    clip = options.train.grad_clip
    grad_norm = None
    if clip is not None:
        grad_norm = nn.utils.clip_grad_norm_(state.network.parameters(), clip)
    elif norm:
        grad_norm = nn.utils.get_total_norm([p.grad for p in state.network.parameters() if p.grad is not None])
    state.optimizer.step()
    if state.ema is not None:
        update_ema(state.ema, state.network, options.train.ema_decay)
    return StepResult(step, losses, grad_norm, rates)


def set_learning_rate(optimizer: torch.optim.Optimizer, options: TrainOptions, step: int) -> tuple[float, ...]:
    """Give every parameter group the rate of iteration ``step``; returns the rates."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(options.train, group["initial_lr"], step)
    return tuple(group["lr"] for group in optimizer.param_groups)


def _not_finite(
    state: TrainState, batch: Batch, options: TrainOptions, losses: Mapping[str, Tensor], rates: tuple[float, ...]
) -> StepResult:
    if options.train.nonfinite == "skip":
        state.skipped += 1
        return StepResult(state.step, losses, None, rates, skipped=True)
    terms = ", ".join(f"{name} = {float(value)}" for name, value in losses.items())
    failed, state.step = state.step, state.step - 1
    raise NonFiniteLossError(
        f"the loss is not finite in iteration {failed}: {terms}; images: {', '.join(batch.names)}. The weights are "
        "those of the iteration before. Lower the learning rate, set train.grad_clip, look at these images, or set "
        "train.nonfinite: skip to leave such batches out"
    )
