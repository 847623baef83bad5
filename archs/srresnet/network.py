"""MSRResNet: residual blocks and pixel shuffles on top of bilinear upsampling; and what its weights tell about it.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, c image channels, H W low-resolution pixels, C channels of the network, s scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from archs.contract import BaseNetwork
from archs.layers.conv import initialise_small
from archs.layers.image import same_channels
from archs.layers.numbering import count_numbered
from archs.layers.size import SizeRule
from utils.errors import InputError

FACTORS: Mapping[int, tuple[int, ...]] = {2: (2,), 3: (3,), 4: (2, 2)}
"""Scale -> factors of the pixel shuffles."""

SLOPE = 0.1


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU between, and the input added.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for conv in (self.conv1, self.conv2):
            initialise_small(conv)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return x + cast("Tensor", self.conv2(F.relu(self.conv1(x), inplace=True)))


class MSRResNet(BaseNetwork):
    """Residual blocks at low resolution, then pixel shuffles; the result is added to bilinear upsampling.

    Args:
        num_in_ch: channels c of the image.
        num_out_ch: the same.
        num_feat: channels C inside.
        num_block: residual blocks, of two convolutions each.
        upscale: scale s: 2, 3 or 4.
    """

    scale: int

    def __init__(
        self, num_in_ch: int = 3, num_out_ch: int = 3, num_feat: int = 64, num_block: int = 16, upscale: int = 4
    ) -> None:
        super().__init__()
        if upscale not in FACTORS:
            raise InputError(f"MSRResNet: upscale must be 2, 3 or 4, got {upscale}")
        self.channels = same_channels("MSRResNet", num_in_ch, num_out_ch)
        self.scale = upscale
        self.size_rule = SizeRule()
        self.receptive_radius = 2 * num_block + 3
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(num_feat) for _ in range(num_block)))
        self.factors = FACTORS[upscale]
        for stage, factor in enumerate(self.factors, 1):
            self.add_module(f"upconv{stage}", nn.Conv2d(num_feat, num_feat * factor**2, 3, padding=1))
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)
        for conv in (self.conv_first, *self._upsampling(), self.conv_hr, self.conv_last):
            initialise_small(conv)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] in [0, 1] -> [B, c, s*H, s*W], not clamped."""
        features = self.body(_activated(self.conv_first(x)))
        for conv, factor in zip(self._upsampling(), self.factors, strict=True):
            features = _activated(F.pixel_shuffle(conv(features), factor))  # [B, C, factor*h, factor*w]
        residual = self.conv_last(_activated(self.conv_hr(features)))
        base = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return cast("Tensor", base + residual)

    def _upsampling(self) -> list[nn.Conv2d]:
        return [cast("nn.Conv2d", getattr(self, f"upconv{stage + 1}")) for stage in range(len(self.factors))]


def _activated(x: Tensor) -> Tensor:
    """Of a convolution's output, whose own gradient does not need it: in place."""
    return F.leaky_relu(x, SLOPE, inplace=True)


def configuration_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``network_g`` mapping of the MSRResNet that a state dict belongs to, read off its keys and shapes.

    Raises:
        InputError: the keys are not those of an MSRResNet.
    """
    blocks = count_numbered(state, r"body\.(\d+)\.conv1\.weight")
    try:
        num_feat, num_in_ch = state["conv_first.weight"].shape[:2]
        factor = math.isqrt(state["upconv1.weight"].shape[0] // num_feat)
        num_out_ch = state["conv_last.weight"].shape[0]
    except KeyError as error:
        raise InputError(f"these weights are not an MSRResNet's: the key {error} is missing") from None
    return {
        "type": "MSRResNet",
        "num_in_ch": num_in_ch,
        "num_out_ch": num_out_ch,
        "num_feat": num_feat,
        "num_block": blocks,
        "upscale": 4 if "upconv2.weight" in state else factor,
    }
