"""The block of SwinIR. It takes and gives pixels in rows, [B, H, W, C].

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, C channels; w side of a window, N = w*w pixels in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from archs.layers.constants import PublishedConstants, same_values
from archs.layers.drop import DropPath
from archs.layers.mask import shift_mask
from archs.layers.mlp import Mlp
from archs.layers.places import AttentionPlaces
from archs.layers.position import relative_position_index
from archs.layers.swin import WindowAttention, initialise
from utils.errors import InputError


class IndexedWindowAttention(PublishedConstants, WindowAttention):
    """Window attention whose published files hold the index of its bias table."""

    def published_constants(self) -> Mapping[str, Tensor]:
        """The index table, [N, N]."""
        return {"relative_position_index": relative_position_index(self.window, torch.device("cpu"))}


class SwinBlock(PublishedConstants):
    """Window attention, then an MLP, each after a normalisation and with the input added.

    In the paper: STL, swin transformer layer.

    Args:
        channels: C.
        num_heads: h, a divisor of C.
        window_size: w; the image's sides must be multiples of it.
        shift: by how many pixels the windows are moved, 0 .. w - 1; usually 0 or w // 2.
        grid: sides of the image for which published files hold the mask of shifted windows.
        mlp_ratio: hidden channels of the MLP, divided by C.
        qkv_bias: the projections to queries, keys and values have a bias.
        qk_scale: of the logits; None or 0 for D ** -0.5.
        drop: dropout after the projection and in the MLP.
        attn_drop: dropout of attention weights.
        drop_path: rate of stochastic depth for the attention and for the MLP.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int = 8,
        *,
        shift: int = 0,
        grid: tuple[int, int] = (64, 64),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= shift < window_size:
            raise InputError(f"SwinBlock: the shift must be from 0 to {window_size - 1}, got {shift}")
        self.shift = shift
        self.grid = grid
        self.norm1 = nn.LayerNorm(channels)
        self.attn = IndexedWindowAttention(
            channels, num_heads, window_size, qkv_bias=qkv_bias, qk_scale=qk_scale, attn_drop=attn_drop, drop=drop
        )
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio), drop)
        initialise(self)

    def published_constants(self) -> Mapping[str, Tensor]:
        """The mask of shifted windows of an image as large as the grid, [n, N, N]."""
        return {"attn_mask": self._mask(self.grid)} if self.shift else {}

    def is_constant(self, name: str, found: Tensor) -> bool:
        """Whether this is a mask, for the grid or for a square: trainings on patches of other sizes hold others."""
        if super().is_constant(name, found):
            return True
        side = math.isqrt(max(found.shape[0], 1)) * self.attn.window[0]
        return same_values(found, self._mask((side, side)))

    def _mask(self, grid: tuple[int, int]) -> Tensor:
        """Sides that are no multiples of the window's, for which published code makes no mask, are made smaller."""
        window = self.attn.window
        sides = (grid[0] // window[0] * window[0], grid[1] // window[1] * window[1])
        return shift_mask(sides, window, (self.shift, self.shift), torch.device("cpu"))

    def attention_places(self, x: Tensor) -> tuple[AttentionPlaces, ...]:
        """Those of the windows; see :class:`archs.contract.AttentionModule`."""
        return self.attn.places_in(x, self.shift)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        x = x + cast("Tensor", self.drop_path(self.attn.of_image(self.norm1(x), self.shift)))
        return x + cast("Tensor", self.drop_path(self.mlp(self.norm2(x))))
