"""RGT by its published formulas.

Shapes: B images, H W pixels, C channels, P width of a position network; windows of T = h*w tokens, n of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.layers.position import relative_position_index
from archs.layers.position_network import relative_offsets
from archs.rgt.recursion import recursion_count
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

_STORED = (64, 64)  # size of the images whose masks are stored


class _Position(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.pos_proj = nn.Linear(2, width)
        self.pos1, self.pos2, self.pos3 = (
            nn.Sequential(nn.LayerNorm(width), nn.ReLU(inplace=True), nn.Linear(width, out))
            for out in (width, width, heads)
        )

    def forward(self, offsets: Tensor) -> Tensor:
        """[R, 2] -> [R, heads]."""
        return cast("Tensor", self.pos3(self.pos2(self.pos1(self.pos_proj(offsets)))))


class _Branch(nn.Module):
    def __init__(self, heads: int, width: int, window: Pair) -> None:
        super().__init__()
        place = torch.device("cpu")
        self.heads, self.window = heads, window
        self.scale = width**-0.5
        self.pos = _Position(heads * width // 4 // 4, heads)
        self.offsets: Tensor
        self.register_buffer("offsets", relative_offsets(window, place), persistent=False)
        self.index = relative_position_index(window, place)

    def forward(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """[3, B, H, W, C/2] -> [B, H, W, C/2]."""
        _, B, H, W, C = qkv.shape
        T = self.window[0] * self.window[1]
        q, k, v = (
            partition(part, self.window).view(-1, T, self.heads, C // self.heads).permute(0, 2, 1, 3).contiguous()
            for part in qkv
        )
        logits = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.pos(self.offsets)[self.index.view(-1)].view(T, T, -1)
        logits = logits + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            n = mask.shape[0]
            logits = logits.view(B, n, self.heads, T, T) + mask.unsqueeze(1).unsqueeze(0)
            logits = logits.view(-1, self.heads, T, T)
        out = F.softmax(logits, -1) @ v
        return merge(out.transpose(1, 2).reshape(-1, *self.window, C), self.window, (H, W))


class _Local(nn.Module):
    def __init__(self, channels: int, heads: int, split: Pair, shifted: bool) -> None:
        super().__init__()
        self.side, self.shifted = max(split), shifted
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        windows = (split, (split[1], split[0]))
        width = channels // 2 // (heads // 2)
        self.attns = nn.ModuleList(_Branch(heads // 2, width, window) for window in windows)
        self.shifts = tuple((h // 2, w // 2) for h, w in windows)
        self.stored = [mask_of(_STORED, *both) for both in zip(windows, self.shifts, strict=True)] if shifted else []
        self.get_v = conv3x3(channels, channels, channels)

    def forward(self, x: Tensor, size: Pair) -> Tensor:
        """[B, H*W, C] -> [B, H*W, C]."""
        B, N, C = x.shape
        H, W = size
        qkv = self.qkv(x).reshape(B, H, W, 3, C).permute(3, 0, 1, 2, 4).contiguous()  # [3, B, H, W, C]
        v = qkv[2].permute(0, 3, 1, 2).contiguous()
        padded = F.pad(qkv, (0, 0, 0, -W % self.side, 0, -H % self.side))
        halves = []
        for number, (branch, half) in enumerate(zip(self.branches, padded.chunk(2, -1), strict=True)):
            halves.append(self._branch(branch, half, number))
        y = torch.cat(halves, -1)[:, :H, :W].reshape(B, N, C)
        y = y + self.get_v(v).permute(0, 2, 3, 1).contiguous().view(B, N, C)
        return cast("Tensor", self.proj(y))

    @property
    def branches(self) -> list[_Branch]:
        """The two halves."""
        return [cast("_Branch", branch) for branch in self.attns]

    def _branch(self, branch: _Branch, half: Tensor, number: int) -> Tensor:
        if not self.shifted:
            return cast("Tensor", branch(half, None))
        down, right = self.shifts[number]
        size = (half.shape[2], half.shape[3])
        mask = self.stored[number] if size == _STORED else mask_of(size, branch.window, self.shifts[number])
        rolled = torch.roll(half, (-down, -right), (2, 3))
        return torch.roll(branch(rolled, mask), (down, right), (1, 2))


class _Global(nn.Module):
    def __init__(self, channels: int, heads: int, c_ratio: float) -> None:
        super().__init__()
        narrow = int(channels * c_ratio)
        self.heads = heads
        self.scale = (channels // heads * c_ratio) ** -0.5
        self.reduction1 = nn.Conv2d(channels, channels, 4, 4, groups=channels)
        self.dwconv = conv3x3(channels, channels, channels)
        self.conv = nn.Conv2d(channels, narrow, 1)
        self.norm_act = nn.Sequential(nn.LayerNorm(narrow), nn.GELU())
        self.q, self.k = nn.Linear(channels, narrow), nn.Linear(narrow, narrow)
        self.v, self.proj = nn.Linear(narrow, channels), nn.Linear(channels, channels)
        self.cpe = conv3x3(channels, channels, channels)

    def forward(self, x: Tensor, size: Pair) -> Tensor:
        """[B, H*W, C] -> [B, H*W, C]."""
        B, N, C = x.shape
        z = x.permute(0, 2, 1).contiguous().reshape(B, C, *size)
        for _ in range(recursion_count(*size, training=self.training)):
            z = self.reduction1(z)
        z = self.conv(self.dwconv(z))
        represented = (z.shape[2], z.shape[3])
        z = self.norm_act(z.reshape(B, z.shape[1], -1).permute(0, 2, 1))
        q, k = (
            part.reshape(B, -1, self.heads, part.shape[-1] // self.heads).permute(0, 2, 1, 3)
            for part in (self.q(x), self.k(z))
        )
        v = self.v(z)
        v = v + tokens_of(self.cpe(image_of(v, represented)))
        v = v.view(B, -1, self.heads, C // self.heads).permute(0, 2, 1, 3)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return cast("Tensor", self.proj((weights @ v).transpose(1, 2).reshape(B, N, C)))


class _Gate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = conv3x3(channels, channels, channels)

    def forward(self, x: Tensor, size: Pair) -> Tensor:
        """[B, H*W, M] -> [B, H*W, M/2]."""
        first, second = x.chunk(2, -1)
        return first * tokens_of(self.conv(image_of(self.norm(second), size)))


class _Mlp(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.sg = _Gate(hidden // 2)
        self.fc2 = nn.Linear(hidden // 2, channels)

    def forward(self, x: Tensor, size: Pair) -> Tensor:
        """[B, H*W, C] -> [B, H*W, C]."""
        return cast("Tensor", self.fc2(self.sg(self.act(self.fc1(x)), size)))


class _Block(nn.Module):
    def __init__(self, channels: int, attention: nn.Module, hidden: int, rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention
        self.drop_path = DropPath(rate)
        self.mlp = _Mlp(channels, hidden)
        self.norm2 = nn.LayerNorm(channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, size: Pair) -> Tensor:
        """[B, H*W, C] -> [B, H*W, C]."""
        y = x + self.drop_path(self.attn(self.norm1(x), size))
        y = y + self.drop_path(self.mlp(self.norm2(y), size))
        return cast("Tensor", y + x * self.gamma)


class _Group(nn.Module):
    def __init__(self, blocks: Sequence[_Block], channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor, size: Pair) -> Tensor:
        """[B, H*W, C] -> [B, H*W, C]."""
        y = x
        for block in self.blocks:
            y = block(y, size)
        return x + tokens_of(self.conv(image_of(y, size)))


class PublishedRGT(Tail):
    """RGT for images of three channels, with the arguments that its published variants differ in."""

    def __init__(
        self, *, upscale: int, embed_dim: int, depth: Sequence[int], num_heads: Sequence[int], mlp_ratio: float,
        split_size: Sequence[int], c_ratio: float, drop_path_rate: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(embed_dim, upscale)
        split = (split_size[0], split_size[1])
        self.conv_first = conv3x3(3, embed_dim)
        self.before_RG = nn.Sequential(nn.Identity(), nn.LayerNorm(embed_dim))
        rates = iter(rates_of(drop_path_rate, depth))
        self.layers = nn.ModuleList()
        for i, (blocks, heads) in enumerate(zip(depth, num_heads, strict=True)):
            attentions = [
                _Global(embed_dim, heads, c_ratio) if j % 2
                else _Local(embed_dim, heads, split, j % 4 == (0 if i % 2 else 2))
                for j in range(blocks)
            ]  # fmt: skip
            hidden = int(embed_dim * mlp_ratio)
            self.layers.append(_Group([_Block(embed_dim, a, hidden, next(rates)) for a in attentions], embed_dim))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = conv3x3(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 3, s*H, s*W]."""
        size = (x.shape[2], x.shape[3])
        first = self.conv_first(x - self.mean)
        tokens = self.before_RG[1](tokens_of(first))
        for layer in self.layers:
            tokens = layer(tokens, size)
        return self.image(self.conv_after_body(image_of(self.norm(tokens), size)) + first)
