"""What a state dict of RGT says about the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from archs.layers.numbering import count_numbered
from archs.layers.upsample import pixelshuffle_scale
from utils.errors import InputError

PUBLISHED_SPLIT_SIZE = (8, 32)


def configuration_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``network_g`` mapping of the RGT that a state dict belongs to, read off its keys and shapes.

    Published files hold tables from which the size of the windows follows; in files without them it leaves no trace,
    and the published 8 x 32 is taken. The number of heads is taken to be even, and what leaves no trace at all
    (``img_range``, ``qk_scale``, rates) to be the default.

    Raises:
        InputError: the keys are not those of an RGT.
    """
    try:
        channels, in_chans = state["conv_first.weight"].shape[:2]
        first = "layers.0.blocks.0"
        hidden = state[f"{first}.mlp.fc1.weight"].shape[0]
        groups = count_numbered(state, r"layers\.(\d+)\.")
        narrow = state["layers.0.blocks.1.attn.q.weight"].shape[0] if "layers.0.blocks.1.gamma" in state else None
        heads = [2 * state[f"layers.{i}.blocks.0.attn.attns.0.pos.pos3.2.weight"].shape[0] for i in range(groups)]
        state[f"{first}.gamma"], state["conv_before_upsample.0.weight"], state["before_RG.1.weight"]
    except (KeyError, ValueError) as error:
        raise InputError(f"these weights are not an RGT's: {error} is missing") from None
    configuration: dict[str, Any] = {
        "type": "RGT",
        "upscale": pixelshuffle_scale(state),
        "in_chans": in_chans,
        "embed_dim": channels,
        "depth": [count_numbered(state, rf"layers\.{i}\.blocks\.(\d+)\.") for i in range(groups)],
        "num_heads": heads,
        "mlp_ratio": hidden / channels,
        "qkv_bias": f"{first}.attn.qkv.bias" in state,
        "resi_connection": "3conv" if "conv_after_body.0.weight" in state else "1conv",
        "split_size": _split_size(state.get(f"{first}.attn.attns.0.rpe_biases")),
    }
    if narrow is not None:
        configuration["c_ratio"] = narrow / channels
    return configuration


def _split_size(offsets: Tensor | None) -> list[int]:
    """Sides of the windows from the relative positions [(2h-1)(2w-1), 2] of the first branch."""
    if offsets is None:
        return list(PUBLISHED_SPLIT_SIZE)
    return [int(side) + 1 for side in offsets.amax(0).tolist()]
