"""Optimisers by name, from torch, and what they take over from a saved one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from config.optimizers import OptimOptions
from utils.errors import InputError

FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
"""Optimisers that update all parameters in one kernel, and leave out a step where a flag on the device says so."""

_OF_TORCH = {"params", "fused", "foreach", "capturable", "differentiable", "maximize", "decoupled_weight_decay"}
_SCHEDULED = {"lr", "initial_lr"}


def build_optimizer(options: OptimOptions, network: nn.Module, *, decay_all: bool = True) -> torch.optim.Optimizer:
    """The optimiser that ``optim_g`` names, over the parameters of a network that want a gradient.

    Args:
        options: its name and arguments.
        network: whose parameters it moves.
        decay_all: False leaves norms, biases and other vectors out of the weight decay, as a second parameter group.

    Adam, AdamW and SGD update all parameters in one fused kernel, on the CPU too: for small networks, the update
    otherwise costs as much as a convolution.

    Raises:
        InputError: torch refuses the arguments.
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
    kind: type[torch.optim.Optimizer] = getattr(torch.optim, name)
    if kind in FUSED:
        arguments["fused"] = True
    try:
        optimizer = kind(groups, **arguments)
    except ValueError as error:  # what torch knows about its arguments, and the option file's bounds do not say
        raise InputError(f"train.optim_g ({name}): {error}") from error
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def resume_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], kind: str | None) -> None:
    """Take over what a saved optimiser remembers of the gradients; its arguments stay those of the option file.

    Args:
        optimizer: as built from the option file; mutated.
        saved: the ``state_dict`` of the saved one.
        kind: its class, where that is known.

    Raises:
        ValueError: the saved one is of another kind, or remembers too little for these arguments; one sentence.
    """
    wanted = type(optimizer).__name__
    if kind is not None and kind != wanted:
        raise ValueError(f"it was saved by {kind}, and the option file asks for {wanted}")
    groups = saved["param_groups"]
    if len(groups) != len(optimizer.param_groups):
        counts = f"{len(groups)} parameter groups, not {len(optimizer.param_groups)}"
        raise ValueError(f"it has {counts}; train.decay_norms_and_biases decides how many there are")
    arguments = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    known = set(arguments[0]) - _OF_TORCH - _SCHEDULED
    if kind is None and set(groups[0]) - _OF_TORCH - _SCHEDULED != known:
        theirs = ", ".join(sorted(set(groups[0]) - _OF_TORCH - _SCHEDULED))
        raise ValueError(f"its arguments ({theirs}) are not those of {wanted}")
    remembered = set(next(iter(saved["state"].values()), ()))
    lacking = sorted(_remembered_by(optimizer) - remembered) if remembered else []
    if lacking:
        raise ValueError(f"it has no {', '.join(lacking)}, which {wanted} needs with these arguments")
    optimizer.load_state_dict(dict(saved))
    for group, own in zip(optimizer.param_groups, arguments, strict=True):
        group.update(own)


def _remembered_by(optimizer: torch.optim.Optimizer) -> set[str]:
    """Names of what an optimiser with these arguments keeps for each parameter."""
    group = optimizer.param_groups[0]
    arguments = {key: value for key, value in group.items() if key not in ("params", "initial_lr")}
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    probe = type(optimizer)([{"params": [parameter], **arguments}], lr=group["lr"])  # type: ignore[call-arg]
    probe.step()
    return {name for name, value in probe.state[parameter].items() if value is not None}
