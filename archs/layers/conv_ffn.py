"""An MLP with a depthwise convolution between its layers, under the names of PFT and ATD.

Shapes: B images, H W pixels, C channels, M hidden channels of the MLP.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from archs.layers.conv import depthwise
from archs.layers.evaluation import projected, serves
from archs.layers.linear import Linear
from archs.layers.recompute import recomputed
from archs.layers.watched import watched
from ops import gelu_depthwise, linear_rows
from ops.mlp.local_linear import local_linear, serves_local_linear


class DepthwiseConvolution(nn.Module):
    """A convolution of each channel by itself, and GELU.

    Args:
        channels: C.
        kernel_size: side of the kernel, odd.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.radius = kernel_size // 2
        conv = nn.Conv2d(channels, channels, kernel_size, padding=self.radius, groups=channels)
        self.depthwise_conv = nn.Sequential(conv, nn.GELU())

    @property
    def layer(self) -> nn.Conv2d:
        """The convolution without GELU."""
        return cast("nn.Conv2d", self.depthwise_conv[0])

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        return cast("Tensor", self.depthwise_conv[1](depthwise(self.layer, x)))


class ConvFFN(nn.Module):
    """An MLP with a depthwise convolution of its hidden channels.

    In the paper: the feed-forward block of a layer.

    Args:
        channels: C.
        hidden: M.
        kernel_size: of the convolution, odd.
    """

    def __init__(self, channels: int, hidden: int, kernel_size: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.dwconv = DepthwiseConvolution(hidden, kernel_size)
        self.fc2 = Linear(hidden, channels)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """[B, H, W, C], which goes through ``norm`` first -> [B, H, W, C]."""
        if isinstance(norm, nn.LayerNorm) and serves(x, self) and not watched(norm):
            return self.at_once(x, norm, residual=False)
        hidden = recomputed(self.fc1 if norm is None else lambda x: self.fc1(norm(x)), x)
        layer, fc2 = self.dwconv.layer, self.fc2
        parameters = (layer.weight, cast("Tensor", layer.bias), fc2.weight, cast("Tensor", fc2.bias))
        if torch.is_grad_enabled() and not watched(fc2) and serves_local_linear(hidden, *parameters):
            return local_linear(hidden, *parameters)
        return recomputed(self._after, hidden)

    def at_once(self, x: Tensor, norm: nn.LayerNorm, *, residual: bool) -> Tensor:
        """As :meth:`forward`, by kernels for several steps, and x added where it is wanted; for x that they serve."""
        pixels = x.reshape(-1, x.shape[-1])
        hidden = projected(pixels, self.fc1, norm).view(*x.shape[:3], -1)
        hidden = self.between(hidden).flatten(0, 2)
        rows = linear_rows(hidden, self.fc2.weight, self.fc2.bias, residual=pixels if residual else None)
        return rows.view(x.shape)

    def _after(self, hidden: Tensor) -> Tensor:
        """[B, H, W, M] -> [B, H, W, C]."""
        return cast("Tensor", self.fc2(self.between(hidden)))

    def between(self, hidden: Tensor) -> Tensor:
        """GELU and the convolution, [B, H, W, M] -> the same."""
        layer = self.dwconv.layer
        return gelu_depthwise(hidden, layer.weight, cast("Tensor", layer.bias))
