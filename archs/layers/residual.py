"""The convolution before a residual sum, at the end of each group and of the body."""

from __future__ import annotations

from typing import Literal

from torch import nn

from archs.layers.conv import Conv3x3

Residual = Literal["1conv", "3conv", "identity"]
"""The published values of ``resi_connection``; each network knows two of them."""


def residual_convolution(channels: int, kind: Residual) -> nn.Module:
    """[B, C, H, W] -> [B, C, H, W].

    Args:
        channels: C.
        kind: "1conv" for a 3x3 convolution, "3conv" for three that are narrow in the middle, "identity" for none.
    """
    if kind == "identity":
        return nn.Identity()
    if kind == "1conv":
        return Conv3x3(channels, channels)
    narrow = channels // 4
    return nn.Sequential(
        Conv3x3(channels, narrow), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(narrow, narrow, 1), nn.LeakyReLU(0.2, inplace=True),
        Conv3x3(narrow, channels),
    )  # fmt: skip
