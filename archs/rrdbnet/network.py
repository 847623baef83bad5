"""RRDBNet: dense blocks inside residual ones, without batch normalisation; and what its weights tell about it.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, c image channels, H W low-resolution pixels, C channels of the network, G channels that a convolution
of a dense block adds, s scale; f factor of the unshuffling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.contract import BaseNetwork
from archs.layers.conv import initialise_small
from archs.layers.image import same_channels
from archs.layers.numbering import count_numbered
from archs.layers.size import SizeRule
from archs.layers.upsample import doubled
from utils.errors import InputError

UNSHUFFLE: Mapping[int, int] = {4: 1, 2: 2, 1: 4}
"""Scale -> f: inside, the network always upscales by 4."""

SLOPE = 0.2
RESIDUAL = 0.2
"""Weight of a residual, of dense blocks and of RRDBs alike."""


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and what all before it have made (ESRGAN, figure 4).

    Args:
        num_feat: channels C.
        num_grow_ch: channels G.
    """

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.conv1 = _convolution(num_feat, num_grow_ch)
        self.conv2 = _convolution(num_feat + num_grow_ch, num_grow_ch)
        self.conv3 = _convolution(num_feat + 2 * num_grow_ch, num_grow_ch)
        self.conv4 = _convolution(num_feat + 3 * num_grow_ch, num_grow_ch)
        self.conv5 = _convolution(num_feat + 4 * num_grow_ch, num_feat)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            initialise_small(conv)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        dense = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            dense = torch.cat([dense, F.leaky_relu(conv(dense), SLOPE, inplace=True)], 1)  # [B, C + k*G, H, W]
        return torch.add(x, self.conv5(dense), alpha=RESIDUAL)


class RRDB(nn.Module):
    """Residual in residual dense block: three dense blocks and a residual around them.

    Args:
        num_feat: channels C.
        num_grow_ch: channels G.
    """

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb2 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb3 = ResidualDenseBlock(num_feat, num_grow_ch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=RESIDUAL)


class RRDBNet(BaseNetwork):
    """RRDBs between two convolutions, then pixels doubled twice.

    Args:
        num_in_ch: channels c of the image.
        num_out_ch: the same.
        scale: scale s: 4, or 2 or 1 by moving squares of pixels into channels first.
        num_feat: channels C inside.
        num_block: RRDBs, of 15 convolutions each.
        num_grow_ch: channels G that each convolution of a dense block adds.
    """

    scale: int

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        scale: int = 4,
        num_feat: int = 64,
        num_block: int = 23,
        num_grow_ch: int = 32,
    ) -> None:
        super().__init__()
        if scale not in UNSHUFFLE:
            raise InputError(f"RRDBNet: scale must be 4, 2 or 1, got {scale}")
        self.channels = same_channels("RRDBNet", num_in_ch, num_out_ch)
        self.scale = scale
        factor = UNSHUFFLE[scale]
        self.unshuffle = factor
        self.size_rule = SizeRule(multiple=factor, tile_multiple=factor)
        self.receptive_radius = factor * (15 * num_block + 4)  # the four convolutions of the head reach 2 pixels
        self.conv_first = _convolution(num_in_ch * factor**2, num_feat)
        self.body = nn.Sequential(*(RRDB(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = _convolution(num_feat, num_feat)
        self.conv_up1 = _convolution(num_feat, num_feat)
        self.conv_up2 = _convolution(num_feat, num_feat)
        self.conv_hr = _convolution(num_feat, num_feat)
        self.conv_last = _convolution(num_feat, num_out_ch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] in [0, 1] -> [B, c, s*H, s*W], not clamped."""
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(x, self.unshuffle)  # [B, c*f*f, H/f, W/f]
        first = self.conv_first(x)
        features = first + self.conv_body(self.body(first))
        return doubled(features, (self.conv_up1, self.conv_up2), self.conv_hr, self.conv_last)


def _convolution(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1)


def configuration_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``network_g`` mapping of the RRDBNet that a state dict belongs to, read off its keys and shapes.

    Raises:
        InputError: the keys are not those of an RRDBNet.
    """
    blocks = count_numbered(state, r"body\.(\d+)\.rdb1\.conv1\.weight")
    try:
        num_feat, channels = state["conv_first.weight"].shape[:2]
        num_grow_ch = state["body.0.rdb1.conv1.weight"].shape[0]
        num_out_ch = state["conv_last.weight"].shape[0]
    except KeyError as error:
        raise InputError(f"these weights are not an RRDBNet's: the key {error} is missing") from None
    scales = {factor: scale for scale, factor in UNSHUFFLE.items()}
    return {
        "type": "RRDBNet",
        "num_in_ch": num_out_ch,
        "num_out_ch": num_out_ch,
        "scale": scales[math.isqrt(channels // num_out_ch)],
        "num_feat": num_feat,
        "num_block": blocks,
        "num_grow_ch": num_grow_ch,
    }
