"""What both networks have in common.

Shapes: B images, H W pixels, C channels, h w sides of a window, n windows of an image, T = h*w tokens of a window.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

Pair = tuple[int, int]


class DropPath(nn.Module):
    """Stochastic depth: each sample loses its branch with probability ``rate`` in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, ...]."""
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        kept = (keep + torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype)).floor()
        return x / keep * kept


def partition(x: Tensor, window: Pair) -> Tensor:
    """[B, H, W, C] -> [B*n, h, w, C]."""
    B, H, W, C = x.shape
    h, w = window
    cells = x.view(B, H // h, h, W // w, w, C)
    return cells.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, h, w, C)


def merge(windows: Tensor, window: Pair, size: Pair) -> Tensor:
    """[B*n, h, w, C] -> [B, H, W, C]."""
    (h, w), (H, W) = window, size
    cells = windows.view(-1, H // h, W // w, h, w, windows.shape[-1])
    return cells.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, H, W, windows.shape[-1])


def mask_of(size: Pair, window: Pair, shift: Pair) -> Tensor:
    """[n, T, T], 0 within a region of the shifted image and -100 between two; made region by region."""
    regions = torch.zeros(1, *size, 1)
    rows, columns = (
        (slice(0, -side), slice(-side, -by), slice(-by, None)) for side, by in zip(window, shift, strict=True)
    )
    for number, (row, column) in enumerate(itertools.product(rows, columns)):
        regions[:, row, column, :] = number
    windows = partition(regions, window).view(-1, window[0] * window[1])
    differences = windows.unsqueeze(1) - windows.unsqueeze(2)
    return differences.masked_fill(differences != 0, -100.0).masked_fill(differences == 0, 0.0)


def tokens_of(image: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H*W, C]."""
    return image.flatten(2).transpose(1, 2)


def image_of(tokens: Tensor, size: Pair) -> Tensor:
    """[B, H*W, C] -> [B, C, H, W]."""
    return tokens.transpose(1, 2).contiguous().view(tokens.shape[0], tokens.shape[2], *size)


def conv3x3(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    """A 3x3 convolution with zeros around the image."""
    return nn.Conv2d(inputs, outputs, 3, 1, 1, groups=groups)


def rates_of(rate: float, depths: Sequence[int]) -> list[float]:
    """Rates of stochastic depth of all blocks."""
    return [float(value) for value in torch.linspace(0, rate, sum(depths))]


class Tail(nn.Module):
    """The end of a network: upsampling by pixel shuffles, and its input's mean.

    Args:
        channels: of the body.
        scale: a power of two.
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.mean = torch.tensor((0.4488, 0.4371, 0.4040)).view(1, 3, 1, 1)
        self.conv_before_upsample = nn.Sequential(conv3x3(channels, 64), nn.LeakyReLU(inplace=True))
        stages = [(conv3x3(64, 256), nn.PixelShuffle(2)) for _ in range(scale.bit_length() - 1)]
        self.upsample = nn.Sequential(*(layer for stage in stages for layer in stage))
        self.conv_last = conv3x3(64, 3)

    def image(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 3, s*H, s*W]."""
        return cast("Tensor", self.conv_last(self.upsample(self.conv_before_upsample(features)))) + self.mean
