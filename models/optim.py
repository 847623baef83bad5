"""Optimisers by name, from torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import nn

from options.schema import OptimOptions

_FUSED = ("Adam", "AdamW", "SGD")


def build_optimizer(options: OptimOptions, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that ``optim_g`` names, over the parameters that want a gradient.

    Adam, AdamW and SGD update all parameters in one fused kernel, on the CPU too: for small networks, the update
    otherwise costs as much as a convolution.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    name = type(options).__name__
    arguments = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    if name in _FUSED:
        arguments["fused"] = True
    optimizer: torch.optim.Optimizer = getattr(torch.optim, name)(trained, **arguments)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer
