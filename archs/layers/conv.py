"""Convolutions of images that have their channels last, and 1x1 convolutions as the matrix products that they are.

Shapes: B images, H W pixels, C channels.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ops import Memo, conv3x3, depthwise_conv2d, linear
from ops.registry import recording


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with zeros around the image, which keeps its transformed weights for evaluation.

    Args:
        channels: C, of what it takes.
        out: C', of its result.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=1)
        self.transformed = Memo()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]; the compiled kernel serves images whose channels lie side by side."""
        if recording() or x.ndim != 4 or x.shape[1] == 1 or x.stride(1) != 1:
            return super().forward(x)
        return self.evaluate(x)

    def evaluate(self, x: Tensor, *, slope: float = 1.0, shuffle: int = 1, out: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W] with what follows it (see :func:`ops.conv3x3`)."""
        return conv3x3(x, self.weight, self.bias, slope=slope, shuffle=shuffle, out=out, memo=self.transformed)


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer that takes channels first, applied to [B, H, W, C] -> [B, H, W, C']; no copies."""
    return cast("Tensor", layer(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


def depthwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of each channel by itself, zeros around the image: [B, H, W, C] -> [B, H, W, C]."""
    return depthwise_conv2d(x, layer.weight, layer.bias)


def pointwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution of [..., C] -> [..., C']."""
    return linear(x, layer.weight.flatten(1), layer.bias)


def to_bhwc(image: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H, W, C]; no copy of channels-last images."""
    return image.permute(0, 2, 3, 1).contiguous()


@torch.no_grad()
def initialise_small(layer: nn.Conv2d, factor: float = 0.1) -> None:
    """The initial values of networks without normalisation (ESRGAN, section 3.1): He's, made smaller; the bias 0."""
    nn.init.kaiming_normal_(layer.weight)
    layer.weight.mul_(factor)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
