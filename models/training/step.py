"""One iteration of training."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from config.schema import TrainOptions
from data.loader import Batch
from models.distributed import World
from models.training.ema import update_ema
from models.training.finite import FiniteGuard, NonFiniteLossError, Suspect
from models.training.schedule import learning_rate
from models.training.state import TrainState
from utils.errors import InputError

__all__ = ["NonFiniteLossError", "StepResult", "autocast", "set_learning_rate", "train_step"]

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """What one iteration did.

    Attributes:
        step: its number, from 1.
        losses: loss terms by their log names (``l_pix``), scalars on the device.
        grad_norm: L2 norm of the gradient before clipping; None when the iteration was skipped.
        lr: learning rate of each parameter group.
        skipped: loss or gradient was not finite and nothing was changed (a deferred guard tells later).
    """

    step: int
    losses: Mapping[str, Tensor]
    grad_norm: Tensor | None
    lr: tuple[float, ...]
    skipped: bool = False


def train_step(
    state: TrainState,
    batch: Batch,
    options: TrainOptions,
    *,
    model: nn.Module | None = None,
    world: World | None = None,
    guard: FiniteGuard | None = None,
) -> StepResult:
    """Forward, loss, backward, optimiser, EMA.

    The batch may be computed in pieces (``train.accumulate``): the gradient is that of the whole batch.

    Args:
        state: mutated: weights, average, optimiser, scaler, step.
        batch: lq [B,3,h,w] and gt [B,3,s*h,s*w] on the state's device.
        options: loss, schedule, clipping, precision, EMA decay.
        model: the network as it is called: compiled, inside its wrapper for distributed training; default
            ``state.network``.
        world: the processes that train together; the loss reported and checked is their mean.
        guard: watches over losses that are not finite; by default one that looks at once.

    Raises:
        NonFiniteLossError: loss or gradient is not finite, ``train.nonfinite`` is ``stop`` and the guard looks at once.
    """
    step = state.step + 1
    train = options.train
    guard = guard or FiniteGuard(deferred=False, skip=train.nonfinite == "skip")
    rates = set_learning_rate(state.optimizer, options, step)
    state.optimizer.zero_grad(set_to_none=True)
    loss = _backward(state.network if model is None else model, batch, options, state)
    losses = {"l_pix": loss if world is None else world.mean(loss)}
    if state.scaler is not None:
        state.scaler.unscale_(state.optimizer)
    grad_norm = _clip([p for p in state.tensors.parameters if p.grad is not None], train.grad_clip)
    finite = losses["l_pix"].isfinite()
    if state.scaler is None:  # which expects overflows now and then, and leaves those steps out by itself
        finite = finite & grad_norm.isfinite()
    # On all ranks alike: the mean of anything with NaN or inf is neither finite, and gradients are means too.
    guard.watch(Suspect(step, ~finite, losses, grad_norm, batch.names))
    if not guard.deferred and guard.settle():
        state.step, state.epoch, state.skipped = step, batch.epoch, state.skipped + 1
        if state.scaler is not None:
            state.scaler.update()  # forgets the gradients that were unscaled
        return StepResult(step, losses, None, rates, skipped=True)
    _move(state, None if not guard.deferred else ~finite)
    if state.averages is not None:
        update_ema(state.averages, state.tensors, train.ema_decay)
    state.step, state.epoch = step, batch.epoch
    return StepResult(step, losses, grad_norm, rates)


def _backward(model: nn.Module, batch: Batch, options: TrainOptions, state: TrainState) -> Tensor:
    """The loss of a batch, detached, after its gradients have been added up piece by piece."""
    train = options.train
    pieces = min(train.accumulate, len(batch.lq))
    total = torch.zeros((), device=state.device)
    whole = len(batch.lq)
    for i, (lq, gt) in enumerate(zip(batch.lq.tensor_split(pieces), batch.gt.tensor_split(pieces), strict=True)):
        # Distributed training exchanges gradients once per batch, after its last piece.
        last = i == pieces - 1
        silent = isinstance(model, nn.parallel.DistributedDataParallel) and not last
        with model.no_sync() if silent else contextlib.nullcontext():  # type: ignore[operator]
            with autocast(train.amp, state.device):
                prediction = model(lq)
            if prediction.shape != gt.shape:
                raise InputError(
                    f"the network turns {tuple(lq.shape)} into {tuple(prediction.shape)}, "
                    f"but the ground truth is {tuple(gt.shape)}; check scale and network_g"
                )
            share = len(lq) / whole if train.pixel_opt.reduction == "mean" else 1.0
            loss = train.pixel_opt(prediction, gt) * share
            (loss if state.scaler is None else state.scaler.scale(loss)).backward()
        total += loss.detach()
    return total


def autocast(amp: str | None, device: torch.device) -> AbstractContextManager[Any]:
    """Automatic mixed precision as ``train.amp`` names it; nothing for None."""
    return contextlib.nullcontext() if amp is None else torch.autocast(device.type, AMP[amp])


def _clip(parameters: Sequence[Tensor], limit: float | None) -> Tensor:
    """The norm of the gradient, which is scaled down to the limit if there is one."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    # nn.utils.get_total_norm in the case of one device and type, without its sorting, which takes as long again.
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if limit is not None:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def _move(state: TrainState, bad: Tensor | None) -> None:
    """The optimiser's step; ``bad`` is a flag on the device that leaves it out."""
    optimizer = state.optimizer
    if state.scaler is not None:
        state.scaler.step(optimizer)
        state.scaler.update()
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


def set_learning_rate(optimizer: torch.optim.Optimizer, options: TrainOptions, step: int) -> tuple[float, ...]:
    """Give every parameter group the rate of iteration ``step``; returns the rates."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(options.train, group["initial_lr"], step)
    return tuple(group["lr"] for group in optimizer.param_groups)
