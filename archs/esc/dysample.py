"""Upsampling by sampling at learned positions (DySample: Liu et al., ICCV 2023, arXiv 2308.15085).

Shapes: B images, H W low-resolution pixels, C channels in G groups, c of the result, s scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.layers.constants import PublishedConstants
from utils.errors import InputError


class DySample(PublishedConstants):
    """Each output pixel of each group reads the features, bilinearly, somewhere near its place.

    Args:
        channels: C.
        out_channels: c, of the 1x1 convolution behind.
        scale: s.
        groups: G, a divisor of C.
    """

    def __init__(self, channels: int, out_channels: int, scale: int, groups: int = 4) -> None:
        super().__init__()
        if channels % groups:
            raise InputError(f"DySample: {channels} channels cannot be shared evenly by {groups} groups")
        self.scale = scale
        self.groups = groups
        self.end_conv = nn.Conv2d(channels, out_channels, 1)
        self.offset = nn.Conv2d(channels, 2 * groups * scale**2, 1)
        self.scope = nn.Conv2d(channels, 2 * groups * scale**2, 1, bias=False)
        nn.init.trunc_normal_(self.offset.weight, std=0.02)
        nn.init.zeros_(self.scope.weight)

    def published_constants(self) -> Mapping[str, Tensor]:
        """The displacements without learning."""
        axis = self._places(torch.device("cpu"), torch.float32)
        columns, rows = axis.expand(self.scale, -1), axis[:, None].expand(-1, self.scale)
        places = torch.stack([columns, rows])[:, None].expand(-1, self.groups, -1, -1)  # [2, G, s, s]
        return {"init_pos": places.reshape(1, -1, 1, 1)}

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, c, s*H, s*W]."""
        B, _, H, W = x.shape
        s, G = self.scale, self.groups
        # Positions need float32: half precision would be off by a quarter of a pixel in a wide image.
        dtype = torch.promote_types(x.dtype, torch.float32)
        moves = (0.5 * self.offset(x).to(dtype) * self.scope(x).to(dtype).sigmoid()).view(B, 2, G, s, s, H, W)
        places = self._places(x.device, dtype)
        # In pixels, whose centres are at 0.5; each [B, G, H, s, W, s].
        column = moves[:, 0].permute(0, 1, 4, 2, 5, 3) + places + torch.arange(W, device=x.device)[:, None] + 0.5
        row = moves[:, 1].permute(0, 1, 4, 2, 5, 3) + places[:, None, None]
        row = row + torch.arange(H, device=x.device)[:, None, None, None] + 0.5
        grid = torch.stack([2 * column / W - 1, 2 * row / H - 1], -1).view(B * G, s * H, s * W, 2)
        # The convolution behind may as well come first, group by group: sampling mixes pixels, it mixes channels.
        mixed = F.conv2d(x, self._weight_by_group(), groups=G).to(dtype)  # [B, G*c, H, W]
        mixed = mixed.reshape(B * G, -1, H, W)
        sampled = F.grid_sample(mixed, grid, padding_mode="border", align_corners=False)
        out = sampled.view(B, G, -1, s * H, s * W).sum(1)
        bias = self.end_conv.bias
        assert bias is not None
        out = out + bias.to(dtype)[:, None, None]
        return out.to(x.dtype).contiguous(memory_format=torch.channels_last)

    def _weight_by_group(self) -> Tensor:
        """[c, C, 1, 1] -> [G*c, C / G, 1, 1]."""
        weight = self.end_conv.weight
        return weight.view(len(weight), self.groups, -1).transpose(0, 1).reshape(self.groups * len(weight), -1, 1, 1)

    def _places(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Where the s output pixels of a pixel lie along an axis, relative to its centre, [s]."""
        return (torch.arange(self.scale, device=device, dtype=dtype) - (self.scale - 1) / 2) / self.scale
