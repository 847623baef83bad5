"""What a state dict of the family says about the network, and the kernel's folding.

Keys: those of ESC's encoder have no prefix, but for the arbitrary-scale network.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor

from archs.esc.kernels import symmetric_kernel
from archs.esc.network import IMAGE_CHANNELS, Encoder
from archs.esc.real import Upsampler
from archs.layers.numbering import count_numbered
from utils.errors import InputError

State = Mapping[str, Tensor]
Network = TypeVar("Network", bound=Encoder)

PUBLISHED_UPSAMPLER = "nearest+conv"


def fold(network: Network) -> Network:
    """A copy of the network whose large kernel is symmetric already, as published ``convert()`` leaves it.

    The function is the same, exactly, in this project and in others that skip the projection after ``convert()``.

    Raises:
        InputError: the kernel is symmetric already, or there is none to fold (ESC-FP).
    """
    folded = copy.deepcopy(network)
    folded.load_state_dict(fold_state(network.state_dict()))
    return folded


def fold_state(state: State) -> dict[str, Tensor]:
    """The same for a state dict; the argument stays as it is, and the result shares its other tensors."""
    key = next((key for key in state if key.split(".")[-1] == "plk_filter"), None)
    if key is None:
        raise InputError("these weights have no plk_filter to fold; they are not those of an ESC")
    kernel = symmetric_kernel(state[key].detach())
    if torch.equal(kernel, state[key]):
        raise InputError("the large kernel of these weights is folded already")
    return {**state, key: kernel}


def configuration_from_state(state: State) -> dict[str, Any]:
    """The ``network_g`` mapping of the network that a state dict belongs to, read off its keys and shapes.

    What leaves no trace has its default: ``attn_type``, the scale of an arbitrary-scale network, and which upsampler a
    network has whose published file would say so but does not.

    Raises:
        InputError: the keys are not those of a network of this family.
    """
    prefix = "encoder." if "encoder.plk_filter" in state else ""
    try:
        found = _body(state, prefix)
        if prefix:
            return {"type": "ESCLTE", **found, **_decoder(state)}
        if "lk_spatial" in state or "to_img.weight" in state:
            rows = state["to_img.weight"].shape[0]
            scale = math.isqrt(rows // IMAGE_CHANNELS)
            if rows != IMAGE_CHANNELS * scale**2:
                raise InputError(f"these weights are not an ESC's: to_img.weight has {rows} rows, not 3 times a square")
            if "lk_spatial" in state:
                del found["use_ln"]
                return {"type": "ESCFP", **found, "upscaling_factor": scale}
            return {"type": "ESC", **found, "upscaling_factor": scale}
        del found["use_ln"]
        return {**found, **_real(state)}
    except KeyError as error:
        raise InputError(f"these weights are not an ESC's: the key {error} is missing") from None


def _body(state: State, prefix: str) -> dict[str, Any]:
    kernel = state.get(prefix + "lk_spatial", state.get(prefix + "plk_filter"))
    if kernel is None:
        raise InputError("these weights are not an ESC's: the key plk_filter is missing")
    block = prefix + "blocks.0."
    heads, entries = state[block + "attn.relative_position_bias"].shape
    hidden, dim = state[block + "convffns.0.proj.weight"].shape[:2]
    return {
        "dim": dim,
        "pdim": kernel.shape[0],
        "kernel_size": kernel.shape[-1],
        "n_blocks": count_numbered(state, re.escape(prefix) + r"blocks\.(\d+)\."),
        "conv_blocks": count_numbered(state, re.escape(block) + r"convffns\.(\d+)\."),
        "window_size": (math.isqrt(entries) + 1) // 2,
        "num_heads": heads,
        "exp_ratio": hidden / dim,
        "use_ln": block + "lns.0.weight" in state,
    }


def _decoder(state: State) -> dict[str, Any]:
    layers = sorted(int(match[1]) for key in state if (match := re.fullmatch(r"imnet\.layers\.(\d+)\.weight", key)))
    widths = [state[f"imnet.layers.{layer}.weight"].shape[0] for layer in layers]
    return {"hidden_dim": state["coef.weight"].shape[0], "hidden_list": widths[:-1], "out_dim": widths[-1]}


def _real(state: State) -> dict[str, Any]:
    """Type, scale and upsampler of ESC-Real and ESCRealM."""
    inputs = state.get("proj.1.weight", state.get("proj.weight"))
    if inputs is None:
        raise KeyError("proj.weight")
    factor = math.isqrt(inputs.shape[1] // IMAGE_CHANNELS)
    upsampler, scale, mid_dim = _head(state)
    if upsampler == "published":
        return {"type": "ESCReal", "upscaling_factor": scale, "use_dysample": "to_img.offset.weight" in state}
    realm: dict[str, Any] = {
        "type": "ESCRealM",
        "upscaling_factor": scale // factor,
        "upsampler": upsampler,
        "unshuffle_mod": factor > 1 or scale >= 3,
    }
    return realm if mid_dim is None else {**realm, "mid_dim": mid_dim}


def _head(state: State) -> tuple[str, int, int | None]:
    """Upsampler ("published" for ESC-Real's own), scale of the head, and mid_dim where it leaves a trace."""
    if "to_img.offset.weight" in state:
        return "published", _dysample_scale(state["to_img.offset.weight"]), None
    if "to_img.1.weight" in state:
        return "published", 4, None
    numbers = state.get("to_img.MetaUpsample")
    numbers = None if numbers is None or numbers.is_meta else numbers
    for key in ("to_img.0.offset.weight", "to_img.2.offset.weight"):
        if key in state:
            return "dysample", _dysample_scale(state[key]), state[key].shape[1]
    first = state["to_img.0.weight"]
    if "to_img.2.weight" in state:
        stages = count_numbered(state, r"to_img\.(\d+)\.weight") // 2 - 2  # 0, then 2, 4, ..., and the last
        rows, columns = state["to_img.2.weight"].shape[:2]
        return "pixelshuffle", 3 if rows == 9 * columns else 2 ** (stages + 1), columns
    if "to_img.3.weight" in state:
        stages = (count_numbered(state, r"to_img\.(\d+)\.weight") - 3) // 3
        recorded = None if numbers is None else int(numbers[2])
        return PUBLISHED_UPSAMPLER, recorded or 2**stages, None
    scale = math.isqrt(first.shape[0] // IMAGE_CHANNELS)
    if scale > 1:
        return "pixelshuffledirect", scale, None
    kind = "conv" if numbers is None else get_args(Upsampler)[int(numbers[1])]
    return kind, 1, None


def _dysample_scale(offset: Tensor) -> int:
    """From the 2 * groups * s * s rows of its offsets, with four groups."""
    return math.isqrt(offset.shape[0] // 8)
