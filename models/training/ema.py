"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn


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
