"""State dicts of PlainUSR: which network one belongs to, and its other form, as pure functions with checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from archs.plainusr.blocks import ScaleInit
from archs.plainusr.folding import State, folded_tensors, lifted_tensors
from archs.plainusr.network import (
    IMAGE_CHANNELS,
    MIDDLE,
    PlainUSR,
    PlainUSRGeneral,
    PlainUSRLarge,
    PlainUSRUltra,
)
from utils.errors import InputError

_TRAIN_FORMS: Mapping[str, type[PlainUSR]] = {
    "PlainUSR_ultra": PlainUSRUltra,
    "PlainUSR_general": PlainUSRGeneral,
    "PlainUSR_large": PlainUSRLarge,
}
_INFERENCE = "_inference"


def configuration_from_state(state: State) -> dict[str, Any]:
    """The ``network_g`` mapping of the network that a state dict belongs to, read off its keys and shapes.

    The ultra family's ``attn_feat`` leaves no trace in a checkpoint and is left out.

    Raises:
        InputError: the keys are not those of a PlainUSR.
    """
    train = "block1.body.0.expand_conv.weight" in state
    leaf = "expand_conv.weight" if train else "weight"
    local = "block3.body.0." + leaf in state
    deep = "block1.body.4." + leaf in state
    family = ("PlainUSR_large" if deep else "PlainUSR_general") if local else "PlainUSR_ultra"
    levels = ("block1", "block2", MIDDLE) if local else ("block1", MIDDLE)
    try:
        rows = state["tail.0.weight"].shape[0]
        scale = math.isqrt(rows // IMAGE_CHANNELS)
        configuration: dict[str, Any] = {
            "type": family if train else family + _INFERENCE,
            "n_feat": state["head.weight"].shape[0] - IMAGE_CHANNELS,
            "im_feat": [state[f"{block}.body.0.{leaf}"].shape[1] for block in levels],
            "scale": scale,
        }
        if local:
            position = (6 if deep else 4) - (not train)
            configuration["attn_feat"] = state[f"block1.body.{position}.body.0.weight"].shape[0]
    except KeyError as error:
        raise InputError(f"these weights are not a PlainUSR's: the key {error} is missing") from None
    if rows != IMAGE_CHANNELS * scale**2:
        raise InputError(f"these weights are not a PlainUSR's: tail.0.weight has {rows} rows, not 3 times a square")
    return configuration


def fold_state(state: State, *, prune_below: float | None = None) -> dict[str, Tensor]:
    """The folded form of a train-form state dict.

    The arithmetic is float64, on the tensors' device; the result has their dtype, is contiguous and shares no memory
    with the source.

    Args:
        state: train form.
        prune_below: set entries of the blocks' folded kernels with a smaller absolute value to 0. The published files
            were not pruned; at 0.01 their output would change.

    Raises:
        InputError: ``state`` is in folded form already, or is not that of a PlainUSR.
    """
    configuration = configuration_from_state(state)
    if configuration["type"].endswith(_INFERENCE):
        raise InputError("these PlainUSR weights are in folded form already; folding takes the train form")
    _check_keys(state, configuration)
    return folded_tensors(state, prune_below=prune_below)


def lift_state(state: State, *, se_init: ScaleInit = "live", seed: int | None = None) -> dict[str, Tensor]:
    """A train-form state dict with the function of a folded one, to train on from published weights.

    Half of the channels between the branches carry the folded kernel. The other half keeps random initial weights:
    silent at first, because the reduction has zeros for it, it gets gradients through these zeros at once.

    Args:
        state: folded form.
        se_init: how the scale generators start.
        seed: of the random half; None draws from the global generator.

    Raises:
        InputError: ``state`` is in train form already, or is not that of a PlainUSR.
    """
    configuration = configuration_from_state(state)
    name = str(configuration["type"])
    if not name.endswith(_INFERENCE):
        raise InputError("these PlainUSR weights are in train form already; lifting takes the folded form")
    _check_keys(state, configuration)
    arguments = {key: value for key, value in configuration.items() if key != "type"}
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        network = _TRAIN_FORMS[name.removesuffix(_INFERENCE)](**arguments, se_init=se_init)
    return lifted_tensors(state, network.state_dict())


def _check_keys(state: State, configuration: Mapping[str, Any]) -> None:
    """Raise InputError unless keys and shapes are those of the network that the configuration describes."""
    name = str(configuration["type"])
    train_form = _TRAIN_FORMS[name.removesuffix(_INFERENCE)]
    arguments = {key: value for key, value in configuration.items() if key != "type"}
    with torch.device("meta"):
        network = (train_form.folded_form if name.endswith(_INFERENCE) else train_form)(**arguments)
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    problems = [f"the key {key} is missing" for key in expected.keys() - found.keys()]
    problems += [f"the key {key} is unknown" for key in found.keys() - expected.keys()]
    problems += [
        f"{key} has the shape {list(found[key])}, expected {list(expected[key])}"
        for key in expected.keys() & found.keys()
        if expected[key] != found[key]
    ]
    if problems:
        raise InputError(f"these weights are not those of a {name}: {'; '.join(sorted(problems)[:8])}")
