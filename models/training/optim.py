"""Optimisers by name, from torch."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from config.schema import OptimOptions

_FUSED = ("Adam", "AdamW", "SGD")


def build_optimizer(options: OptimOptions, network: nn.Module, *, decay_all: bool = True) -> torch.optim.Optimizer:
    """The optimiser that ``optim_g`` names, over the parameters of a network that want a gradient.

    Args:
        options: its name and arguments.
        network: whose parameters it moves.
        decay_all: False leaves norms, biases and other vectors out of the weight decay, as a second parameter group.

    Adam, AdamW and SGD update all parameters in one fused kernel, on the CPU too: for small networks, the update
    otherwise costs as much as a convolution.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    name = type(options).__name__
    arguments = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    groups: list[dict[str, Any]] = [{"params": trained}]
    if not decay_all and arguments.get("weight_decay"):
        groups = [
            {"params": [parameter for parameter in trained if parameter.ndim > 1]},
            {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
    if name in _FUSED:
        arguments["fused"] = True
    optimizer: torch.optim.Optimizer = getattr(torch.optim, name)(groups, **arguments)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer
