"""Optimisers by name, from torch, and what they take over from a saved one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from config.optimizers import OptimOptions
from utils.devices import abilities
from utils.eager import spare_compiler
from utils.errors import InputError

FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
"""Optimisers that update all parameters in one kernel, and leave out a step where a flag on the device says so."""

MOMENTUM = ("step", "exp_avg", "exp_avg_sq")
"""What Adam and AdamW remember."""

_OF_TORCH = {"params", "fused", "foreach", "capturable", "differentiable", "maximize", "decoupled_weight_decay"}
_SCHEDULED = {"lr", "initial_lr"}


def build_optimizer(
    options: OptimOptions, network: nn.Module, *, decay_all: bool = True, key: str = "optim_g"
) -> torch.optim.Optimizer:
    """The optimiser that an option file names, over the parameters of a network that want a gradient.

    Args:
        options: its name and arguments.
        network: whose parameters it moves.
        key: of ``train`` where the options come from, for messages.
        decay_all: False leaves norms, biases and other vectors out of the weight decay, as a second parameter group.

    Adam, AdamW and SGD update all parameters in one fused kernel where the device has it, the CPU too: for small
    networks, the update otherwise costs as much as a convolution.

    Raises:
        InputError: torch refuses the arguments.
    """
    spare_compiler()
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
    if kind in FUSED and all(abilities(parameter.device).fused for parameter in trained):
        arguments["fused"] = True
    try:
        optimizer = kind(groups, **arguments)
    except ValueError as error:  # what torch knows about its arguments, and the option file's bounds do not say
        raise InputError(f"train.{key} ({name}): {error}") from error
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def reset_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimiser forget both moments and how many steps it has done, so that bias correction starts again.

    Of AMSGrad the largest second moment stays, as published.
    """
    for values in optimizer.state.values():
        for name in MOMENTUM:
            values[name].zero_()


def check_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], kind: str | None) -> None:
    """Whether a saved optimiser can go on as this one.

    Args:
        optimizer: as built from the option file.
        saved: the ``state_dict`` of the saved one, of sound form (:mod:`models.training.state_form`).
        kind: its class, where that is known.

    Raises:
        ValueError: it is of another kind, remembers too little for these arguments, or not of these parameters; one
            sentence.
    """
    wanted = type(optimizer).__name__
    if kind is not None and kind != wanted:
        raise ValueError(f"it was saved by {kind}, and the option file asks for {wanted}")
    groups = saved["param_groups"]
    if len(groups) != len(optimizer.param_groups):
        counts = f"{len(groups)} parameter groups, not {len(optimizer.param_groups)}"
        raise ValueError(f"it has {counts}; train.decay_norms_and_biases decides how many there are")
    own = set(optimizer.param_groups[0]) - _OF_TORCH - _SCHEDULED
    theirs = set(groups[0]) - _OF_TORCH - _SCHEDULED
    if kind is None and theirs != own:
        raise ValueError(f"its arguments ({', '.join(sorted(theirs))}) are not those of {wanted}")
    wanted_memory = _remembered_by(optimizer)
    for values in saved["state"].values():
        lacking = sorted(set(wanted_memory) - set(values))
        if lacking:
            raise ValueError(f"it has no {', '.join(lacking)}, which {wanted} needs with these arguments")
    for theirs_of_group, own_of_group in zip(groups, optimizer.param_groups, strict=True):
        numbers, parameters = theirs_of_group["params"], own_of_group["params"]
        if len(numbers) != len(parameters):
            raise ValueError(f"a group has {len(numbers)} parameters, not {len(parameters)}")
        for number, parameter in zip(numbers, parameters, strict=True):
            _check_memory(saved["state"].get(number, {}), number, parameter, wanted_memory)


def _check_memory(values: Mapping[str, Any], number: int, parameter: torch.Tensor, wanted: Mapping[str, bool]) -> None:
    """Raise ValueError where something is not as this optimiser keeps it for a parameter."""
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            right = value.numel() == 1 or value.shape == parameter.shape
            if wanted.get(name, False):
                right = value.shape == parameter.shape and value.is_floating_point()
            if not right or value.is_complex():
                raise ValueError(
                    f"{name} of parameter {number} is {list(value.shape)}, {value.dtype}, where the parameter is "
                    f"{list(parameter.shape)}"
                )
        elif name in wanted and (wanted[name] or not isinstance(value, int | float) or value != value):
            raise ValueError(f"{name} of parameter {number} is {value}")


def resume_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Take over what a saved optimiser remembers of the gradients; its arguments stay those of the option file.

    Args:
        optimizer: as built from the option file; mutated.
        saved: the ``state_dict`` of the saved one, looked at by :func:`check_optimizer`.
    """
    groups = [
        {**own, "params": theirs["params"]}
        for own, theirs in zip(optimizer.param_groups, saved["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def _remembered_by(optimizer: torch.optim.Optimizer) -> dict[str, bool]:
    """Names of what an optimiser with these arguments keeps for each parameter; True: a tensor of its shape."""
    group = optimizer.param_groups[0]
    arguments = {key: value for key, value in group.items() if key not in ("params", "initial_lr")}
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    probe = type(optimizer)([{"params": [parameter], **arguments}], lr=group["lr"])  # type: ignore[call-arg]
    probe.step()
    kept = {name: value for name, value in probe.state[parameter].items() if value is not None}
    return {name: isinstance(value, torch.Tensor) and value.shape == parameter.shape for name, value in kept.items()}
