"""HAT by its published formulas.

Shapes: B images, H W pixels, C channels; w side of a window, e of the larger one, n windows of an image, N = w*w and
M = e*e tokens in them; h heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from archs.layers.position import published_overlapping_index, relative_position_index
from scripts.benchmarks.formulas.parts import (
    DropPath,
    Pair,
    Tail,
    conv3x3,
    image_of,
    mask_of,
    merge,
    partition,
    rates_of,
    tokens_of,
)


class _Mlp(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.fc2(self.act(self.fc1(x))))


class _ChannelAttention(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", x * self.attention(x))


class _ConvBlock(nn.Module):
    def __init__(self, channels: int, compressed: int, squeezed: int) -> None:
        super().__init__()
        self.cab = nn.Sequential(
            conv3x3(channels, compressed), nn.GELU(), conv3x3(compressed, channels),
            _ChannelAttention(channels, squeezed),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.cab(x))


class _WindowAttention(nn.Module):
    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.softmax = nn.Softmax(-1)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        """[B*n, N, C], [N, N], [n, N, N] -> [B*n, N, C]."""
        windows, N, C = x.shape
        qkv = self.qkv(x).reshape(windows, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        logits = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[index.view(-1)].view(N, N, -1)
        logits = logits + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            n = mask.shape[0]
            logits = logits.view(windows // n, n, self.heads, N, N) + mask.unsqueeze(1).unsqueeze(0)
            logits = logits.view(-1, self.heads, N, N)
        out = (self.softmax(logits) @ v).transpose(1, 2).reshape(windows, N, C)
        return cast("Tensor", self.proj(out))


class _Hab(nn.Module):
    def __init__(
        self, channels: int, heads: int, window: int, shift: int, compressed: int, squeezed: int, hidden: int,
        conv_scale: float, rate: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.window, self.shift, self.conv_scale = window, shift, conv_scale
        self.norm1 = nn.LayerNorm(channels)
        self.attn = _WindowAttention(channels, heads, window)
        self.conv_block = _ConvBlock(channels, compressed, squeezed)
        self.drop_path = DropPath(rate)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _Mlp(channels, hidden)

    def forward(self, x: Tensor, size: Pair, index: Tensor, mask: Tensor) -> Tensor:
        """[B, H*W, C] -> [B, H*W, C]."""
        B, _, C = x.shape
        window = (self.window, self.window)
        image = self.norm1(x).view(B, *size, C)
        beside = self.conv_block(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous().view(B, -1, C)
        if self.shift:
            image = torch.roll(image, (-self.shift, -self.shift), (1, 2))
        windows = partition(image, window).view(-1, self.window**2, C)
        windows = self.attn(windows, index, mask if self.shift else None)
        image = merge(windows.view(-1, *window, C), window, size)
        if self.shift:
            image = torch.roll(image, (self.shift, self.shift), (1, 2))
        x = x + self.drop_path(image.view(B, -1, C)) + beside * self.conv_scale
        return x + cast("Tensor", self.drop_path(self.mlp(self.norm2(x))))


class _Ocab(nn.Module):
    def __init__(self, channels: int, heads: int, window: int, extended: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.window, self.extended = heads, window, extended
        self.scale = (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((window + extended - 1) ** 2, heads))
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.unfold = nn.Unfold(extended, stride=window, padding=(extended - window) // 2)
        self.softmax = nn.Softmax(-1)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _Mlp(channels, hidden)

    def forward(self, x: Tensor, size: Pair, index: Tensor) -> Tensor:
        """[B, H*W, C] -> [B, H*W, C]."""
        B, _, C = x.shape
        N, M, width = self.window**2, self.extended**2, C // self.heads
        qkv = self.qkv(self.norm1(x)).view(B, *size, 3, C).permute(3, 0, 4, 1, 2)  # [3, B, C, H, W]
        q = partition(qkv[0].permute(0, 2, 3, 1), (self.window, self.window)).view(-1, N, C)
        surroundings = self.unfold(torch.cat((qkv[1], qkv[2]), 1))  # [B, 2*C*M, n]
        sources = surroundings.view(B, 2, C, M, -1).permute(1, 0, 4, 3, 2).contiguous().view(2, -1, M, C)
        q = q.reshape(-1, N, self.heads, width).permute(0, 2, 1, 3)
        k, v = (part.reshape(-1, M, self.heads, width).permute(0, 2, 1, 3) for part in (sources[0], sources[1]))
        logits = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[index.view(-1)].view(N, M, -1)
        logits = logits + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        out = (self.softmax(logits) @ v).transpose(1, 2).reshape(-1, self.window, self.window, C)
        x = self.proj(merge(out, (self.window, self.window), size).view(B, -1, C)) + x
        return x + cast("Tensor", self.mlp(self.norm2(x)))


class _Blocks(nn.Module):
    def __init__(self, blocks: Sequence[_Hab], overlapping: _Ocab) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.overlap_attn = overlapping


class _Group(nn.Module):
    def __init__(self, blocks: _Blocks, channels: int) -> None:
        super().__init__()
        self.residual_group = blocks
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor, size: Pair, indices: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """[B, H*W, C] -> [B, H*W, C]."""
        y = x
        for block in self.residual_group.blocks:
            y = block(y, size, indices[0], mask)
        y = self.residual_group.overlap_attn(y, size, indices[1])
        return tokens_of(self.conv(image_of(y, size))) + x


class _Embedding(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)


class PublishedHAT(Tail):
    """HAT for images of three channels, with the arguments that its published variants differ in."""

    def __init__(
        self, *, upscale: int, embed_dim: int, depths: Sequence[int], num_heads: Sequence[int], window_size: int,
        compress_ratio: int, squeeze_factor: int, conv_scale: float, mlp_ratio: float, overlap_ratio: float = 0.5,
        drop_path_rate: float = 0.1, upsampler: str = "pixelshuffle",
    ) -> None:  # fmt: skip
        super().__init__(embed_dim, upscale)
        assert upsampler == "pixelshuffle"
        self.window, extended = window_size, window_size + int(window_size * overlap_ratio)
        self.conv_first = conv3x3(3, embed_dim)
        self.patch_embed = _Embedding(embed_dim)
        hidden = int(embed_dim * mlp_ratio)
        rates = iter(rates_of(drop_path_rate, depths))
        narrow = (embed_dim // compress_ratio, embed_dim // squeeze_factor)
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            blocks = [
                _Hab(
                    embed_dim, heads, window_size, j % 2 * (window_size // 2), *narrow, hidden, conv_scale, next(rates)
                )
                for j in range(depth)
            ]
            overlapping = _Ocab(embed_dim, heads, window_size, extended, hidden)
            self.layers.append(_Group(_Blocks(blocks, overlapping), embed_dim))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = conv3x3(embed_dim, embed_dim)
        place = torch.device("cpu")
        own, larger = (window_size, window_size), (extended, extended)
        self.indices = (relative_position_index(own, place), published_overlapping_index(own, larger, place))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 3, s*H, s*W]."""
        size = (x.shape[2], x.shape[3])
        first = self.conv_first(x - self.mean)
        mask = mask_of(size, (self.window, self.window), (self.window // 2, self.window // 2))
        tokens = self.patch_embed.norm(tokens_of(first))
        for layer in self.layers:
            tokens = layer(tokens, size, self.indices, mask)
        features = self.conv_after_body(image_of(self.norm(tokens), size)) + first
        return self.image(features)
