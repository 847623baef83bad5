"""What the weights of a discriminator tell about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from utils.errors import InputError


def configuration_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``network_d`` mapping of the discriminator that a state dict belongs to, read off its keys and shapes.

    What leaves no trace has its default: skip_connection of the U-Net.

    Raises:
        InputError: the keys are not those of a discriminator.
    """
    if {"conv0.weight", "conv1.weight_orig", "conv1.weight_u", "conv1.weight_v", "conv9.weight"} <= state.keys():
        num_feat, num_in_ch = state["conv0.weight"].shape[:2]
        return {"type": "UNetDiscriminatorSN", "num_in_ch": num_in_ch, "num_feat": num_feat}
    if {"conv0_0.weight", "bn4_1.weight", "linear1.weight", "linear2.weight"} <= state.keys():
        num_feat, num_in_ch = state["conv0_0.weight"].shape[:2]
        size = 256 if "conv5_0.weight" in state else 128
        return {"type": "VGGStyleDiscriminator", "num_in_ch": num_in_ch, "num_feat": num_feat, "input_size": size}
    raise InputError("these weights are not a discriminator's: conv1.weight_orig and linear1.weight are missing")
