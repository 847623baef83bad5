"""What a training state must look like: everything in it is looked at before anything of it is used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.devices import TYPES, present
from utils.errors import InputError
from utils.records import is_record

_SCALER = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


def check_form(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a training state, of ours or of BasicSR, whose entries are not what they should be.

    Args:
        path: its file, whose name says which iteration it is of.
        content: what the file holds.

    Raises:
        InputError: an entry is missing, of another type, or contradicts another one.
    """
    if not {"iter", "optimizers"} <= content.keys():
        raise InputError(f"{path}: not a training state; expected the entries iter and optimizers")
    for entry, expected in _mistakes(path, content):
        raise InputError(f"{path}: not a sound training state: its entry {entry} is no {expected}")


def _mistakes(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Entries that are wrong, each with what it should be; one at a time, as what follows relies on what is before."""
    step, optimizers = content["iter"], content["optimizers"]
    if not _is_count(step):
        yield "iter", "number of iterations"
    if path.suffix == ".state" and path.stem.isascii() and path.stem.isdigit() and int(path.stem) != step:
        yield "iter", f"{path.stem}, as the name of the file says, but {step}"
    if not _is_count(content.get("epoch", 0)):
        yield "epoch", "number of an epoch"
    if not _is_list(optimizers) or not optimizers:
        yield "optimizers", "list of optimisers"
    for position, optimizer in enumerate(optimizers):
        yield from _of_optimizer(f"optimizers[{position}]", optimizer)
    ours = content.get("focalsr", {})
    if not isinstance(ours, Mapping):
        yield "focalsr", "mapping"
    yield from _of_players(ours, len(optimizers))
    yield from _of_progress(ours, step)
    yield from _of_randoms(ours.get("random", []))
    options = ours.get("options", {})
    if not isinstance(options, Mapping) or not _is_plain(options):
        yield "focalsr.options", "mapping of plain values"
    if not _is_whole(options.get("manual_seed", 0)):
        yield "focalsr.options.manual_seed", "whole number"


def _of_optimizer(name: str, optimizer: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(optimizer, Mapping) or not {"state", "param_groups"} <= optimizer.keys():
        yield name, "optimiser"
    groups, state = optimizer["param_groups"], optimizer["state"]
    if not _is_list(groups) or not groups or not all(_is_group(group) for group in groups):
        yield f"{name}.param_groups", "list of parameter groups"
    known = [number for group in groups for number in group["params"]]
    if len(set(known)) != len(known):
        yield f"{name}.param_groups", "list of parameter groups without a parameter twice"
    if not isinstance(state, Mapping) or not set(state) <= set(known):
        yield f"{name}.state", "mapping of its parameters"
    for number, values in state.items():
        if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
            yield f"{name}.state[{number}]", "mapping"
        for key, value in values.items():
            if not isinstance(value, Tensor | int | float | None):
                yield f"{name}.state[{number}].{key}", "tensor or number"
            if isinstance(value, Tensor) and value.is_floating_point() and has_nan(value):
                yield f"{name}.state[{number}].{key}", "tensor of numbers: it holds NaN"


def _is_group(group: Any) -> bool:
    return (
        isinstance(group, Mapping)
        and all(isinstance(key, str) for key in group)
        and _is_list(group.get("params"))
        and all(_is_count(number) for number in group["params"])
    )


def _of_players(ours: Mapping[str, Any], optimizers: int) -> Iterator[tuple[str, str]]:
    players, scalers = ours.get("players", {}), ours.get("scalers", {})
    if not isinstance(players, Mapping) or not all(
        isinstance(name, str) and re.fullmatch(r"\w+", name) and isinstance(kind, str) for name, kind in players.items()
    ):
        yield "focalsr.players", "mapping of networks to their optimisers"
    if players and len(players) != optimizers:
        yield "focalsr.players", f"list of as many networks as it has optimisers ({optimizers})"
    if not isinstance(scalers, Mapping):
        yield "focalsr.scalers", "mapping"
    for name, scaler in {**scalers, "g (before format 2)": ours.get("scaler")}.items():
        if scaler is not None and not (
            isinstance(scaler, Mapping)
            and (not scaler or all(_is_number(scaler.get(key)) for key in _SCALER))
            and scaler.get("scale", 1.0) > 0
        ):
            yield f"focalsr.scalers.{name}", "loss scaler"


def _of_progress(ours: Mapping[str, Any], step: int) -> Iterator[tuple[str, str]]:
    validated, skipped, best = ours.get("validated", step), ours.get("skipped", 0), ours.get("best", {})
    if not _is_whole(validated) or not -1 <= validated <= step:
        yield "focalsr.validated", "iteration up to this one"
    if not _is_count(skipped) or skipped > step:
        yield "focalsr.skipped", "number of iterations up to this one"
    if not isinstance(best, Mapping) or not all(
        isinstance(dataset, str) and isinstance(metrics, Mapping) and all(map(_is_best, metrics.items()))
        for dataset, metrics in best.items()
    ):
        yield "focalsr.best", "mapping of data sets to their best scores"
    unlogged = ours.get("unlogged")
    if unlogged is not None and not (is_record(unlogged) and unlogged["kind"] == "train" and unlogged["step"] == step):
        yield "focalsr.unlogged", "record of this iteration"


def _is_best(item: tuple[Any, Any]) -> bool:
    metric, value = item
    return (
        isinstance(metric, str) and _is_list(value) and len(value) == 2 and _is_number(value[0]) and _is_count(value[1])
    )


def _of_randoms(randoms: Any) -> Iterator[tuple[str, str]]:
    if not _is_list(randoms) or not all(isinstance(state, Mapping) for state in randoms):
        yield "focalsr.random", "list of the generators of each rank"
    for rank, state in enumerate(randoms):
        if not _is_generator(state.get("torch")):
            yield f"focalsr.random[{rank}].torch", "state of a generator"
        for kind in {*TYPES, present().type}:
            states = state.get(kind, [])
            if not _is_list(states) or not all(_is_bytes(value) and len(value) == len(states[0]) for value in states):
                yield f"focalsr.random[{rank}].{kind}", "list of states of generators"


def _is_generator(value: Any) -> bool:
    if not _is_bytes(value):
        return False
    try:
        torch.Generator().set_state(value)
    except RuntimeError:  # another size, or contents that no generator has
        return False
    return True


def has_nan(value: Tensor) -> bool:
    """Whether a tensor holds NaN; one sum tells of nearly all that do not."""
    return bool(value.sum().isnan()) and bool(value.isnan().any())


def _is_bytes(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.uint8 and value.ndim == 1 and len(value) > 0


def _is_plain(value: Any) -> bool:
    """Whether a value is text, a number, nothing, or made of such as options are."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return all(map(_is_plain, value)) if _is_list(value) else isinstance(value, str | int | float | None)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
