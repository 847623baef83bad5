"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from config.schema import TrainingOptions

_LAGGING = 0.05  # part of the first weights in the EMA weights from which on a user should know


def make_ema(network: nn.Module) -> nn.Module:
    """A copy of the network for the EMA weights: in evaluation mode, never trained."""
    return copy.deepcopy(network).eval().requires_grad_(False)


class Tensors(NamedTuple):
    """The tensors of a network, looked up once: in every iteration that would cost a small network one in ten.

    They stay the same objects while the network is trained; only their values change.
    """

    parameters: list[Tensor]
    buffers: list[Tensor]


def tensors_of(network: nn.Module) -> Tensors:
    """Parameters and buffers of a network, in their order."""
    return Tensors(list(network.parameters()), list(network.buffers()))


@torch.no_grad()
def update_ema(ema: Tensors, values: Tensors, decay: float) -> None:
    """``ema <- decay * ema + (1 - decay) * value`` for parameters; buffers are copied.

    Averaging a counter or a table means nothing, and leaving buffers out (as BasicSR does) lets them rot.
    """
    # Not on .data: what a network keeps while its parameters stay the same (ops.Memo) would miss the change.
    if ema.parameters:
        torch._foreach_lerp_(ema.parameters, values.parameters, 1.0 - decay)
    for kept, value in zip(ema.buffers, values.buffers, strict=True):
        kept.copy_(value)


def decay_of(options: TrainingOptions, updates: int) -> float:
    """The decay of the next EMA update, in [0, 1].

    With ``train.ema_warmup`` it rises as ``min(ema_decay, (1 + n) / (10 + n))``, n being the updates so far: the EMA
    spans about the last tenth of a short training instead of holding on to its first weights. It follows from n alone,
    so that a resumed training needs nothing but its iteration. (The rule of ``tf.train.ExponentialMovingAverage``.)

    Args:
        options: ``ema_decay``, ``ema_warmup``.
        updates: n, iterations done before this one.
    """
    if not options.ema_warmup:
        return options.ema_decay
    return min(options.ema_decay, (1 + updates) / (10 + updates))


def lag(options: TrainingOptions, updates: int) -> str | None:
    """Why EMA weights score far below the trained ones early in a training; None where they need not.

    With a constant decay they hold ``decay^n`` of the weights that the training began with after n updates.
    """
    share = options.ema_decay**updates
    if options.ema_warmup or options.ema_decay == 0 or updates == 0 or share < _LAGGING:
        return None
    return (
        f"the EMA weights still hold {100 * share:.0f} % of the weights that the run began with (train.ema_decay "
        f"{options.ema_decay:g}, {updates:,} iterations): their scores lag behind those of the trained weights; "
        "train.ema_warmup: true lets the EMA follow from the start"
    )
