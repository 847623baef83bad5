"""The block of the HiT-SR networks: correlations in windows of its size, and an MLP. Pixels in rows, [B, H, W, C].

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, C channels, D = C / 2; (h, w) sides of a window, L = h*w its pixels, N
windows of all images; M pixels of a window after pooling cells of (c, e) pixels; n heads of width d = D / n.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.hit.context import NeighbourWindows
from archs.layers.conv import Conv3x3, convolve, pointwise
from archs.layers.conv_ffn import ConvFFN
from archs.layers.drop import DropPath
from archs.layers.linear import Linear, initialise_linear
from archs.layers.mlp import Mlp
from archs.layers.position_network import PositionNetwork
from archs.layers.reflect import crop
from archs.layers.sliding import sliding
from archs.layers.window import Pair, window_merge, window_partition
from ops import Memo
from ops.pixels.reflect import reflect
from utils.errors import InputError

Kind = Literal["SRF", "SIR", "SNG"]
"""After which network a block is made: SRFormer, SwinIR, SwinIR-NG."""


class FeatureExtraction(nn.Module):
    """Features of a pixel and its neighbours, times a projection of the pixel.

    In the paper: DFE, dual feature extraction.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 5
        self.conv = nn.Sequential(
            nn.Conv2d(channels, narrow, 1), nn.LeakyReLU(0.2, inplace=True), Conv3x3(narrow, narrow),
            nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(narrow, channels, 1),
        )  # fmt: skip
        self.linear = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        first, act, middle, _, last = self.conv
        near = act(convolve(middle, act(pointwise(cast("nn.Conv2d", first), x))))
        return pointwise(cast("nn.Conv2d", last), near) * pointwise(self.linear, x)


class SpatialChannelCorrelation(nn.Module):
    """Products of a query and a value half of the features, over pixels and over channels of a window.

    In the paper: SCC, S-SC and C-SC side by side.

    There is no softmax, so that products are taken in the order that makes no map of all pairs of pixels.

    Args:
        channels: C.
        window: (h, w).
        base: largest sides of the pooled window.
        num_heads: n, of C / 2 channels.
        drop: dropout of the result.
        value_drop: dropout of the values.
        context: windows know of their neighbours (HiT-SNG).
    """

    def __init__(
        self,
        channels: int,
        window: Pair,
        base: Pair,
        num_heads: int,
        *,
        drop: float = 0.0,
        value_drop: float = 0.0,
        context: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels % (2 * num_heads):
            raise InputError(f"half of {channels} channels cannot be shared evenly by {num_heads} heads")
        self.window, self.num_heads = window, num_heads
        self.pooled = (min(window[0], base[0]), min(window[1], base[1]))
        if window[0] % self.pooled[0] or window[1] % self.pooled[1]:
            raise InputError(
                f"a window of {window[0]} x {window[1]} cannot be pooled to {self.pooled[0]} x {self.pooled[1]}"
            )
        self.cell = (window[0] // self.pooled[0], window[1] // self.pooled[1])
        self.multiple = (window[0] * 2, window[1] * 2) if context else window
        self.qv = FeatureExtraction(channels)
        self.proj = Linear(channels, channels)
        self.spatial_linear = nn.Linear(self.cell[0] * self.cell[1], 1)
        self.ngram_window_partition = NeighbourWindows(channels, window, num_heads) if context else None
        self.pos = PositionNetwork(max(1, channels // 16), num_heads, window)
        self.value_drop = nn.Dropout(value_drop)
        self.proj_drop = nn.Dropout(drop)
        self.kept_bias = Memo()

    def bias(self) -> Tensor:
        """Of each pixel and each pooled one, [n, L, M]: the mean over the cell's pixels of that of two pixels."""
        return self.kept_bias(self._bias, *self.pos.parameters())

    def _bias(self) -> Tensor:
        (h, w), (c, e) = self.window, self.cell
        table = self.pos().t().unflatten(1, (2 * h - 1, 2 * w - 1))  # [n, 2h - 1, 2w - 1]
        means = F.avg_pool2d(table[None], (c, e), 1)[0]  # [n, 2h - c, 2w - e]
        views = sliding(sliding(means, 1, h, c), 2, w, e)  # [n, h / c, w / e, h, w], the last cells first
        return views.flip((1, 2)).permute(0, 3, 4, 1, 2).flatten(3).flatten(1, 2)

    def _cells(self, v: Tensor) -> Tensor:
        """The pixels [N, L, D] of each cell, weighed and added up, [N, M, D]."""
        (a, b), (c, e) = self.pooled, self.cell
        weight = self.spatial_linear.weight.view(c, e)
        if c * e == 1:
            return torch.addcmul(self.spatial_linear.bias, v, weight)
        cells = v.view(-1, a, c, b, e, v.shape[-1])  # [N, a, c, b, e, D]
        return torch.einsum("nacbed,ce->nabd", cells, weight).flatten(1, 2) + self.spatial_linear.bias

    def _correlated(self, windows: Tensor) -> Tensor:
        """[N, L, C] -> [N, L, C]: over pixels, then over channels."""
        N, L, _ = windows.shape
        q, v = windows.chunk(2, -1)  # [N, L, D]
        bias = self.bias().to(q.dtype)
        pooled = self._cells(v).unflatten(-1, (self.num_heads, -1))  # [N, M, n, d]
        dropped = self.value_drop(pooled)
        gram = pooled.permute(0, 2, 3, 1) @ dropped.transpose(1, 2) / pooled.shape[-1]  # [N, n, d, d]
        over_pixels = q.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) @ gram  # [N, n, L, d]
        # The bias is that of all windows: one product for each head.
        placed = bias @ dropped.permute(2, 1, 0, 3).flatten(2)  # [n, L, N*d]
        over_pixels = over_pixels + placed.view(self.num_heads, L, N, -1).permute(2, 0, 1, 3)
        over_channels = self.value_drop(v) @ (v.transpose(1, 2) @ (q / L))  # [N, L, D]
        return torch.cat([over_pixels.transpose(1, 2).flatten(2), over_channels], -1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]; reflected at the right and bottom to whole windows, and cropped again."""
        size = (x.shape[1], x.shape[2])
        for dim, (side, multiple) in enumerate(zip(size, self.multiple, strict=True), start=1):
            x = reflect(x, dim, (side + multiple - 1) // multiple * multiple)
        padded = (x.shape[1], x.shape[2])
        windows = window_partition(self.qv(x), self.window)  # [N, L, C]
        if self.ngram_window_partition is not None:
            windows = self.ngram_window_partition(windows, (padded[0] // self.window[0], padded[1] // self.window[1]))
        out = crop(window_merge(self._correlated(windows), self.window, padded), size)
        return cast("Tensor", self.proj_drop(self.proj(out)))


class DroppingConvFFN(ConvFFN):
    """The MLP with a depthwise convolution, and dropout before and after its last layer.

    Args:
        channels: C.
        hidden: hidden channels.
        kernel_size: of the convolution, odd.
        drop: rate.
    """

    def __init__(self, channels: int, hidden: int, kernel_size: int, drop: float) -> None:
        super().__init__(channels, hidden, kernel_size)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """[B, H, W, C], which goes through ``norm`` first -> [B, H, W, C]."""
        if not self.training or self.drop.p == 0:
            return super().forward(x, norm)
        hidden = self.between(self.fc1(x if norm is None else norm(x)))
        return cast("Tensor", self.drop(self.fc2(self.drop(hidden))))


class HierarchicalBlock(nn.Module):
    """Correlations in windows of one size, then an MLP, each followed by a normalisation and the input added.

    In the paper: HTL, hierarchical transformer layer.

    Args:
        channels: C.
        window: (h, w).
        base: largest sides of a pooled window.
        num_heads: n.
        kind: which MLP, and whether windows know of their neighbours.
        mlp_ratio: hidden channels of the MLP, divided by C.
        drop: dropout after the correlations and in the MLP.
        value_drop: dropout of the values.
        drop_path: rate of stochastic depth for the correlations and for the MLP.
    """

    def __init__(
        self,
        channels: int,
        window: Pair,
        base: Pair,
        num_heads: int,
        *,
        kind: Kind = "SRF",
        mlp_ratio: float = 2.0,
        drop: float = 0.0,
        value_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.norm1 = nn.LayerNorm(channels)
        self.correlation = SpatialChannelCorrelation(
            channels, window, base, num_heads, drop=drop, value_drop=value_drop, context=kind == "SNG"
        )
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = DroppingConvFFN(channels, hidden, 5, drop) if kind == "SRF" else Mlp(channels, hidden, drop)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                initialise_linear(layer)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        x = x + cast("Tensor", self.drop_path(self.norm1(self.correlation(x))))
        return x + cast("Tensor", self.drop_path(self.norm2(self.mlp(x))))
