"""What a window knows of its neighbours, in HiT-SNG.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, a b windows down and across, L pixels of a window, C channels, D = C / 2; n heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from archs.layers.constants import PublishedConstants
from archs.layers.conv import pointwise
from archs.layers.linear import Linear
from archs.layers.position import relative_position_index
from archs.layers.window import Pair
from ops.pixels.reflect import reflect

_GROUP = (2, 2)


class GroupAttention(PublishedConstants):
    """Attention between the tokens of four windows that meet in a corner, averaged over the four.

    Args:
        channels: D.
        num_heads: n.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.empty(9, num_heads))
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def published_constants(self) -> Mapping[str, Tensor]:
        """The index table, [4, 4]."""
        return {"relative_position_index": relative_position_index(_GROUP, torch.device("cpu"))}

    def forward(self, tokens: Tensor) -> Tensor:
        """A token of each window and of those around all, [B, a + 2, b + 2, D] -> of corners, [B, a + 1, b + 1, D]."""
        qkv = self.qkv(tokens)  # [B, a + 2, b + 2, 3D]
        corners = [qkv[:, :-1, :-1], qkv[:, :-1, 1:], qkv[:, 1:, :-1], qkv[:, 1:, 1:]]
        # Each [B, a + 1, b + 1, n, 4, D / n].
        q, k, v = torch.stack(corners, -2).unflatten(-1, (3, self.num_heads, -1)).permute(4, 0, 1, 2, 5, 3, 6).unbind(0)
        table = self.relative_position_bias_table
        bias = table[relative_position_index(_GROUP, table.device)].permute(2, 0, 1)  # [n, 4, 4]
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias.to(q.dtype)
        # The mean of the four is taken of the weights: what follows is linear.
        weights = logits.softmax(-1).mean(-2, keepdim=True).to(v.dtype)
        return cast("Tensor", self.proj((weights @ v).squeeze(-2).flatten(-2)))


class NeighbourContext(nn.Module):
    """A vector for each window, made of the windows to the right and below and of those to the left and above.

    In the paper: the N-Gram context of HiT-SNG, after SwinIR-NG.

    Args:
        channels: C.
        window: sides (h, w) of a window.
        num_heads: n.
    """

    def __init__(self, channels: int, window: Pair, num_heads: int) -> None:
        super().__init__()
        self.unigram_embed = nn.Conv2d(2, 1, window, window)
        self.ngram_attn = GroupAttention(channels // 2, num_heads)
        self.merge = nn.Conv2d(channels, channels, 1)

    def forward(self, windows: Tensor, grid: Pair) -> Tensor:
        """The windows [B*a*b, L, C] of images with (a, b) windows, both even -> [B*a*b, C]."""
        weight = self.unigram_embed.weight.flatten(0, 1).flatten(1)  # [2, L]
        # Of each channel by both kernels, [B*a*b, D, 2, 2]; wanted are those of a channel by the kernel of its place.
        pairs = (windows.transpose(1, 2) @ weight.t()).unflatten(1, (-1, 2))
        tokens = pairs.diagonal(dim1=-2, dim2=-1).sum(-1) + cast("Tensor", self.unigram_embed.bias)  # [B*a*b, D]
        tokens = tokens.view(-1, *grid, tokens.shape[-1])  # [B, a, b, D]
        for dim, side in ((1, grid[0]), (2, grid[1])):
            tokens = reflect(tokens, dim, side + 2, before=1)
        corners = self.ngram_attn(tokens)  # [B, a + 1, b + 1, D]
        both = torch.cat([corners[:, 1:, 1:], corners[:, :-1, :-1]], -1)  # forward, backward
        return pointwise(self.merge, both).flatten(0, 2)


class NeighbourWindows(nn.Module):
    """The context under its published name.

    Args:
        channels: C.
        window: sides of a window.
        num_heads: n.
    """

    def __init__(self, channels: int, window: Pair, num_heads: int) -> None:
        super().__init__()
        self.ngram_context = NeighbourContext(channels, window, num_heads)

    def forward(self, windows: Tensor, grid: Pair) -> Tensor:
        """[B*a*b, L, C] -> the same, with what each window knows of its neighbours added to all of its pixels."""
        context: Tensor = self.ngram_context(windows, grid)
        return windows + context[:, None]
