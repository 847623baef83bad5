"""The algebra of the two forms on state dicts: branches folded into kernels, kernels lifted to branches.

Nothing here knows the networks, and no argument is touched.

Keys: B is a block; ``B.body.i`` one of its convolutions; ``B.body.P.conv`` the gate mixer, which stands between the
last convolution and the attention in train form and is part of that convolution in folded form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from archs.plainusr.blocks import BRANCH_KEYS, Branches, branch_scale, fold_branches
from utils.devices import exact_device

State = Mapping[str, Tensor]


def folded_tensors(state: State, *, prune_below: float | None = None) -> dict[str, Tensor]:
    """The folded form of a train-form state dict.

    The arithmetic is float64, on the tensors' device where it has such numbers; the result has their dtype, is
    contiguous and shares no memory with the source.

    Args:
        state: train form.
        prune_below: set entries of the blocks' folded kernels with a smaller absolute value to 0.
    """
    device = next(iter(state.values())).device
    exact = exact_device(device)
    if exact != device:
        moved = folded_tensors({key: tensor.to(exact) for key, tensor in state.items()}, prune_below=prune_below)
        return {key: tensor.to(device) for key, tensor in moved.items()}
    layer_of = {key: layer for layer in _layers(state) for key in _layer_keys(layer, state)}
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


def lifted_tensors(state: State, initial: State) -> dict[str, Tensor]:
    """A train-form state dict with the function of a folded one.

    Args:
        state: folded form.
        initial: of a new network in train form: half of the channels between the branches keep what it says.
    """
    lifted = {key: tensor.to(state["head.weight"]) for key, tensor in initial.items()}
    layers = _layers(lifted)
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


def _layers(state: State, ending: str = ".expand_conv.weight") -> list[str]:
    """The RepMBConvs of a train-form state dict."""
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
