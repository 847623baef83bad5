"""The blocks of HAT, from small to large. All take and give pixels in rows, [B, H, W, C], for any number of windows.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, C channels; w side of a window, e of the larger window around it, N = w*w
and M = e*e pixels in them, n windows of all images together; h heads of width D = C / h.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from archs.layers.attention import ChannelAttention
from archs.layers.conv import Conv3x3
from archs.layers.drop import DropPath
from archs.layers.image_windows import overlapping_image_windows
from archs.layers.linear import Linear
from archs.layers.mlp import Mlp
from archs.layers.places import AttentionPlaces, unpadded, window_places
from archs.layers.position import overlapping_position_index
from archs.layers.swin import BlockSequence, ResidualGroup, WindowAttention, check_size, head_width, initialise
from archs.layers.window import overlapping_windows, window_merge, window_partition
from ops import Memo, RelativeBias, image_attention, serves_image, window_attention
from utils.errors import InputError


class ChannelAttentionBlock(nn.Module):
    """Two 3x3 convolutions with few channels between them, then channel attention.

    In the paper: CAB, channel attention block, the convolutional branch of a HAB.

    Args:
        channels: C.
        compress_ratio: C divided by the channels between the convolutions.
        squeeze_factor: of the channel attention.
    """

    def __init__(self, channels: int, compress_ratio: int = 3, squeeze_factor: int = 30) -> None:
        super().__init__()
        if compress_ratio < 1 or channels < compress_ratio:
            raise InputError(
                f"compress_ratio: {channels} channels compressed by {compress_ratio} leave none; "
                f"give a ratio from 1 to {channels}"
            )
        inner = channels // compress_ratio
        self.cab = nn.Sequential(
            Conv3x3(channels, inner),
            nn.GELU(),
            Conv3x3(inner, channels),
            ChannelAttention(channels, squeeze_factor),
        )

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> features [B, C, H, W] and the gate [B, C, 1, 1] that they are to be multiplied by."""
        features = self.cab[:-1](x)
        return features, cast("ChannelAttention", self.cab[-1]).gate(features)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return cast("Tensor", self.cab(x))


class HybridAttentionBlock(nn.Module):
    """HAB: window attention and, beside it, convolutions with channel attention; then an MLP.

    In the paper: HAB, hybrid attention block.

    The gate of the channel attention is read from the whole image, so the result depends, slightly, on all of it.

    Args:
        channels: C.
        num_heads: h, a divisor of C.
        window_size: w; the image's sides must be multiples of it.
        shift: by how many pixels the windows are moved, 0 .. w - 1; usually 0 or w // 2.
        compress_ratio: C divided by the channels between the two convolutions.
        squeeze_factor: C divided by the channels inside the gate of the channel attention.
        conv_scale: weight of the convolutions beside the attention.
        mlp_ratio: hidden channels of the MLP, divided by C.
        qkv_bias: the projections to queries, keys and values have a bias.
        qk_scale: of the logits; None or 0 for D ** -0.5.
        drop: dropout after projections and in the MLP.
        attn_drop: dropout of attention weights.
        drop_path: rate of stochastic depth for the attention and for the MLP.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int = 16,
        *,
        shift: int = 0,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= shift < window_size:
            raise InputError(f"HybridAttentionBlock: the shift must be from 0 to {window_size - 1}, got {shift}")
        self.shift = shift
        self.conv_scale = conv_scale
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(
            channels, num_heads, window_size, qkv_bias=qkv_bias, qk_scale=qk_scale, attn_drop=attn_drop, drop=drop
        )
        self.conv_block = ChannelAttentionBlock(channels, compress_ratio, squeeze_factor)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio), drop)
        initialise(self)

    def attention_places(self, x: Tensor) -> tuple[AttentionPlaces, ...]:
        """Those of the windows; see :class:`archs.contract.AttentionModule`."""
        return self.attn.places_in(x, self.shift)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        normal = self.norm1(x)
        features, gate = (part.permute(0, 2, 3, 1) for part in self.conv_block.parts(normal.permute(0, 3, 1, 2)))
        x = torch.addcmul(x + self.drop_path(self.attn.of_image(normal, self.shift)), features, gate * self.conv_scale)
        return x + cast("Tensor", self.drop_path(self.mlp(self.norm2(x))))


class OverlappingCrossAttention(nn.Module):
    """OCAB: each window asks the larger window around it; then an MLP.

    In the paper: OCAB, overlapping cross-attention block.

    What lies outside the image takes part with keys and values of zero, as published: at the border it dilutes.

    Args:
        channels: C.
        num_heads: h, a divisor of C.
        window_size: w; the image's sides must be multiples of it.
        overlap_ratio: e = w + int(w * overlap_ratio), which must be an even number more than w.
        mlp_ratio: hidden channels of the MLP, divided by C.
        qkv_bias: the projections to queries, keys and values have a bias.
        qk_scale: of the logits; None or 0 for D ** -0.5.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int = 16,
        *,
        overlap_ratio: float = 0.5,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
    ) -> None:
        super().__init__()
        extended = extended_window(window_size, overlap_ratio)
        self.num_heads = num_heads
        self.window = (window_size, window_size)
        self.extended = (extended, extended)
        self.scale = qk_scale or head_width(channels, num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((window_size + extended - 1) ** 2, num_heads))
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.dense_bias = Memo()
        initialise(self)

    def bias(self) -> Tensor:
        """[h, N, M]."""
        table = self.relative_position_bias_table
        return self.dense_bias(
            lambda: RelativeBias(
                table, overlapping_position_index(self.window, self.extended, table.device)
            ).dense(),
            table,
        )  # fmt: skip

    def attend(self, x: Tensor) -> Tensor:
        """Attention alone: [B, H, W, C] -> [B, H, W, C]."""
        size, C = (x.shape[1], x.shape[2]), x.shape[3]
        check_size("OverlappingCrossAttention", size, self.window)
        if serves_image(self.qkv.weight):
            windows = overlapping_image_windows(size, self.window, self.extended, self.bias(), x.device)
            attended, _ = image_attention(self.qkv(x), [windows], self.num_heads, self.scale)
            return cast("Tensor", self.proj(attended))
        queries, sources = self.qkv(x).split([C, 2 * C], -1)
        q = window_partition(queries, self.window).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [n, h, N, D]
        sources = overlapping_windows(sources, self.window, self.extended)  # [n, M, 2C]
        k, v = sources.unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # each [n, h, M, D]
        out = window_attention(q, k, v, self.bias(), None, self.scale)
        return window_merge(self.proj(out.transpose(1, 2).flatten(2)), self.window, size)

    def attention_places(self, x: Tensor) -> tuple[AttentionPlaces, ...]:
        """Those of the windows and of the larger ones around them; see :class:`archs.contract.AttentionModule`."""
        rows, columns = (unpadded(side, x.device) for side in x.shape[1:3])
        return (window_places(rows, columns, self.window, extended=self.extended),)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        x = x + self.attend(self.norm1(x))
        return x + cast("Tensor", self.mlp(self.norm2(x)))


class AttentionBlocks(BlockSequence):
    """The blocks of a group in their order.

    In the paper: the HABs of an RHAG and the OCAB that ends it.

    Args:
        blocks: HABs.
        overlap_attn: what follows them.
        use_checkpoint: keep only the input of each block for the backward pass, and run the block again there.
    """

    def __init__(
        self, blocks: Iterable[HybridAttentionBlock], overlap_attn: OverlappingCrossAttention, use_checkpoint: bool
    ) -> None:
        super().__init__(blocks, use_checkpoint)
        self.overlap_attn = overlap_attn

    def in_order(self) -> Sequence[nn.Module]:
        """What runs, one after the other."""
        return [*self.blocks, self.overlap_attn]


class ResidualHybridAttentionGroup(ResidualGroup):
    """RHAG: :class:`AttentionBlocks` and a convolution, around which the input passes."""


def extended_window(window_size: int, overlap_ratio: float) -> int:
    """e; raises InputError where the larger window would not lie centrally around the smaller."""
    extra = int(window_size * overlap_ratio)
    if extra < 0 or extra % 2:
        raise InputError(
            f"overlap_ratio {overlap_ratio:g}: a window of {window_size} grows by {extra}; "
            "it must be an even number of pixels, half of them on each side"
        )
    return window_size + extra
