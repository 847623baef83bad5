"""From one form of PlainUSR to the other, as pure functions of state dicts; the source is never touched.

Keys: B is a block; ``B.body.i`` one of its convolutions; ``B.body.P.conv`` the gate mixer, which stands between the
last convolution and the attention in train form and is part of that convolution in folded form.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from archs.plainusr.blocks import BRANCH_KEYS, Branches, ScaleInit, branch_scale, fold_branches
from archs.plainusr.network import (
    IMAGE_CHANNELS,
    MIDDLE,
    PlainUSR,
    PlainUSRGeneral,
    PlainUSRGeneralInference,
    PlainUSRLarge,
    PlainUSRLargeInference,
    PlainUSRUltra,
    PlainUSRUltraInference,
)
from utils.errors import InputError

State = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class _Forms:
    train: type[PlainUSR]
    folded: type[PlainUSR]


_FAMILIES = {
    "PlainUSR_ultra": _Forms(PlainUSRUltra, PlainUSRUltraInference),
    "PlainUSR_general": _Forms(PlainUSRGeneral, PlainUSRGeneralInference),
    "PlainUSR_large": _Forms(PlainUSRLarge, PlainUSRLargeInference),
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
    layer_of = {key: layer for layer in _layers(state, ".expand_conv.weight") for key in _layer_keys(layer, state)}
    folded: dict[str, Tensor] = {}
    for key, tensor in state.items():
        layer = layer_of.get(key)
        if layer is None:
            folded[_attention_key(key, -1)] = tensor.detach().clone(memory_format=torch.contiguous_format)
        elif f"{layer}.weight" not in folded:
            branches = Branches(*(state[part].detach() for part in _layer_keys(layer, state)))
            (kernel,) = fold_branches([branches], torch.float64)
            weight = kernel.weight
            if prune_below is not None:
                weight = weight.masked_fill(weight.abs() < prune_below, 0)
            folded[f"{layer}.weight"], folded[f"{layer}.bias"] = weight.to(tensor.dtype), kernel.bias.to(tensor.dtype)
    return folded


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
        network = _FAMILIES[name.removesuffix(_INFERENCE)].train(**arguments, se_init=se_init)
    lifted = {key: tensor.to(state["head.weight"]) for key, tensor in network.state_dict().items()}
    layers = _layers(lifted, ".expand_conv.weight")
    for key, tensor in state.items():
        if key.rpartition(".")[0] not in layers:
            lifted[_attention_key(key, +1)] = tensor.detach().clone(memory_format=torch.contiguous_format)
    for layer in layers:
        keys = _layer_keys(layer, lifted)
        parts = _lift_kernel(
            state[f"{layer}.weight"].detach(), state[f"{layer}.bias"].detach(), Branches(*(lifted[key] for key in keys))
        )
        lifted.update({key: part for key, part in zip(keys, parts, strict=False) if part is not None})
    return lifted


def _lift_kernel(weight: Tensor, bias: Tensor, initial: Branches) -> Branches:
    """Branches that fold into a kernel.

    Args:
        weight: [c, c, 3, 3].
        bias: [c].
        initial: where the random half and the scale come from.
    """
    c = len(bias)
    scale = branch_scale(*(tensor.double() for tensor in (initial.se_tensor, initial.se_squeeze, initial.se_excite)))
    identity = torch.eye(c, dtype=torch.float64, device=weight.device)
    # What the two identities around the branches add is taken off; the scale of each output channel is divided out.
    inner = (weight.double() - 2 * F.pad(identity[..., None, None], (1, 1, 1, 1))) / scale[:c].view(c, 1, 1, 1)

    expand, expand_bias, fea, fea_bias = (tensor.clone() for tensor in initial[:4])
    expand[:c], expand_bias[:c] = identity.view(c, c, 1, 1), 0
    fea[:c, :c], fea[:c, c:], fea_bias[:c] = inner, 0, 0
    reduce = torch.zeros_like(initial.reduce_weight)
    reduce[:, :c] = identity.view(c, c, 1, 1)
    mixer_weight, mixer_bias = initial.mixer_weight, initial.mixer_bias
    if mixer_weight is not None and mixer_bias is not None:
        mixer_weight, mixer_bias = identity[:1].view_as(mixer_weight).to(mixer_weight), torch.zeros_like(mixer_bias)
    return initial._replace(
        expand_weight=expand, expand_bias=expand_bias, fea_weight=fea, fea_bias=fea_bias,
        reduce_weight=reduce, reduce_bias=bias.clone(), mixer_weight=mixer_weight, mixer_bias=mixer_bias,
    )  # fmt: skip


def fold(network: PlainUSR, *, prune_below: float | None = None) -> PlainUSR:
    """The folded form of a train-form network: a new network with the same function, which can be trained further.

    Args:
        network: train form; not changed.
        prune_below: see :func:`fold_state`.

    Raises:
        InputError: the network is in folded form already.
    """
    if not network.train_form:
        raise InputError(f"{type(network).__name__} is in folded form already; fold() takes the train form")
    state = fold_state(network.state_dict(), prune_below=prune_below)
    with torch.device("meta"):  # no memory and no random numbers for values that are replaced at once
        folded = next(forms.folded for forms in _FAMILIES.values() if isinstance(network, forms.train))(
            network.n_feat, network.im_feat, network.attn_feat, network.scale
        )
    folded.load_state_dict(state, assign=True)
    return folded.train(network.training)


def _check_keys(state: State, configuration: Mapping[str, Any]) -> None:
    """Raise InputError unless keys and shapes are those of the network that the configuration describes."""
    name = str(configuration["type"])
    forms = _FAMILIES[name.removesuffix(_INFERENCE)]
    arguments = {key: value for key, value in configuration.items() if key != "type"}
    with torch.device("meta"):
        network = (forms.folded if name.endswith(_INFERENCE) else forms.train)(**arguments)
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


def _layers(state: State, ending: str) -> list[str]:
    return [key.removesuffix(ending) for key in state if key.endswith(ending)]


def _layer_keys(layer: str, state: State) -> list[str]:
    """The keys of a RepMBConv ``B.body.i`` and of its gate mixer, in the order of Branches."""
    block, _, position = layer.rpartition(".")
    mixer = f"{block}.{int(position) + 1}.conv"
    keys = [f"{layer}.{name}" for name in BRANCH_KEYS]
    return [*keys, f"{mixer}.weight", f"{mixer}.bias"] if f"{mixer}.weight" in state else keys


def _attention_key(key: str, step: int) -> str:
    """Rename ``B.body.A.body.x`` as the gate mixer before the attention comes (+1) or goes (-1)."""
    parts = re.fullmatch(r"(\w+\.body)\.(\d+)\.(body\..*)", key)
    return f"{parts[1]}.{int(parts[2]) + step}.{parts[3]}" if parts else key
