"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


def make_ema(network: nn.Module) -> nn.Module:
    """A copy of the network that is averaged, never trained."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """``ema <- decay * ema + (1 - decay) * network`` for parameters; buffers are copied.

    Averaging a counter or a table means nothing, and leaving buffers out (as BasicSR does) lets them rot.
    """
    # detach(), not .data: what a network keeps while its parameters stay the same (ops.Memo) sees the change.
    averages = [parameter.detach() for parameter in ema.parameters()]
    values = [parameter.detach() for parameter in network.parameters()]
    if averages:
        torch._foreach_lerp_(averages, values, 1.0 - decay)
    for average, value in zip(ema.buffers(), network.buffers(), strict=True):
        average.copy_(value)
