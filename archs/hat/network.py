"""The network HAT, and what its weights tell about it.

Shapes: B images, c image channels, H W low-resolution pixels, C channels of the network, s scale.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from archs.hat.blocks import (
    AttentionBlocks,
    HybridAttentionBlock,
    OverlappingCrossAttention,
    ResidualHybridAttentionGroup,
    extended_window,
)
from archs.layers.constants import PublishedConstants
from archs.layers.drop import drop_path_rates
from archs.layers.frame import FramedNetwork
from archs.layers.parts import PartNames, matching
from archs.layers.position import published_overlapping_index, relative_position_index
from archs.layers.size import SizeRule
from archs.layers.swin import check_size, configuration_of_groups, grid_of, shift_of, size_problems
from archs.layers.upsample import pixelshuffle_scale
from utils.errors import InputError


class HAT(PublishedConstants, FramedNetwork):
    """Hybrid attention transformer.

    Two defaults are not the published ones, with which no network works: window_size (7) and upsampler ('').

    Args:
        img_size: side of the training patches, or height and width. Windows are shifted if it is larger than they are,
            whatever the size of the images that follow; the size of the absolute positions too.
        patch_size: divides img_size; nothing is merged.
        in_chans: channels c of input and output.
        embed_dim: channels C inside.
        depths: hybrid attention blocks of each group.
        num_heads: heads of each group, divisors of embed_dim.
        window_size: side of the windows; images must be multiples of it.
        compress_ratio: embed_dim divided by the channels between the convolutions of a block.
        squeeze_factor: embed_dim divided by the channels inside the channel attention.
        conv_scale: weight of the convolutions beside the attention.
        overlap_ratio: by how much of its side the window of keys is larger, in the block that ends a group.
        mlp_ratio: hidden channels of the MLPs, divided by embed_dim.
        qkv_bias: the projections to queries, keys and values have a bias.
        qk_scale: scale of the attention logits; none, or 0, for the inverse root of the heads' width.
        drop_rate: dropout after the embedding, after projections and in MLPs.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block, growing from 0 at the first. On by default, as published:
            set it to 0 to train or fine-tune without.
        norm_layer: kind of the normalisations.
        ape: add learned absolute positions; images must then have as many pixels as img_size.
        patch_norm: normalise the first features.
        use_checkpoint: save memory in training by computing each block twice.
        upscale: scale s: 3 or a power of 2.
        img_range: factor on the image inside the network.
        upsampler: how the image is made; the only published way.
        resi_connection: a convolution at the end of each group and of the body, or none.
    """

    kernels = ("window", "window_image", "conv3x3")
    window_size: int

    def __init__(
        self,
        img_size: int | Sequence[int] = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        window_size: int = 16,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
        overlap_ratio: float = 0.5,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        norm_layer: Literal["LayerNorm"] = "LayerNorm",
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int = 2,
        img_range: float = 1.0,
        upsampler: Literal["pixelshuffle"] = "pixelshuffle",
        resi_connection: Literal["1conv", "identity"] = "1conv",
    ) -> None:
        super().__init__()
        grid = grid_of("HAT", img_size, patch_size, window_size)
        _check_arguments(
            grid, window_size, embed_dim, depths, num_heads, compress_ratio, squeeze_factor, overlap_ratio,
            norm_layer, upsampler, resi_connection,
        )  # fmt: skip
        self.window_size = window_size
        self.extended = extended_window(window_size, overlap_ratio)
        self.size_rule = SizeRule(multiple=window_size, tile_multiple=window_size)
        self.receptive_radius = None  # the channel attention sees the whole image
        self.begin(
            in_chans, embed_dim, upscale, img_range,
            positions=math.prod(grid) if ape else None, patch_norm=patch_norm, drop=drop_rate,
        )  # fmt: skip
        hab = functools.partial(
            HybridAttentionBlock, embed_dim, window_size=window_size,
            compress_ratio=compress_ratio, squeeze_factor=squeeze_factor, conv_scale=conv_scale,
            mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, qk_scale=qk_scale, drop=drop_rate, attn_drop=attn_drop_rate,
        )  # fmt: skip
        ocab = functools.partial(
            OverlappingCrossAttention, embed_dim, window_size=window_size,
            overlap_ratio=overlap_ratio, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, qk_scale=qk_scale,
        )  # fmt: skip
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        shifts = (0, shift_of("HAT", grid, window_size))
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            blocks = [hab(heads, shift=shifts[position % 2], drop_path=next(rates)) for position in range(depth)]
            group = AttentionBlocks(blocks, ocab(heads), use_checkpoint)
            self.layers.append(ResidualHybridAttentionGroup(group, embed_dim, resi_connection))
        self.end(embed_dim, upsampler, resi_connection)

    def published_constants(self) -> Mapping[str, Tensor]:
        """The two index tables; the second has negative entries, which count from the end of the bias table."""
        window, extended = (self.window_size,) * 2, (self.extended,) * 2
        cpu = torch.device("cpu")
        return {
            "relative_position_index_SA": relative_position_index(window, cpu),
            "relative_position_index_OCA": published_overlapping_index(window, extended, cpu),
        }

    def part_names(self) -> PartNames:
        """Its groups; the blocks of each and the overlapping cross-attention that ends it."""
        group = r"layers\.\d+"
        return PartNames(matching(self, group), matching(self, group + r"\.residual_group\.(blocks\.\d+|overlap_attn)"))

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] in [0, 1] -> [B, c, s*H, s*W], not clamped."""
        check_size("HAT", (x.shape[2], x.shape[3]), (self.window_size, self.window_size))
        return super().forward(x)


def _check_arguments(
    grid: tuple[int, int],
    window_size: int,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    compress_ratio: int,
    squeeze_factor: int,
    overlap_ratio: float,
    norm_layer: str,
    upsampler: str,
    resi_connection: str,
) -> None:
    """Raise InputError with all mistakes at once."""
    problems = size_problems(depths, num_heads, embed_dim, grid, window_size)
    problems += [
        f"{name} must be from 1 to embed_dim, {embed_dim}, or no channel is left; got {ratio}"
        for name, ratio in (("compress_ratio", compress_ratio), ("squeeze_factor", squeeze_factor))
        if not 1 <= ratio <= embed_dim
    ]
    try:
        extended_window(window_size, overlap_ratio)
    except InputError as error:
        problems.append(str(error))
    if norm_layer != "LayerNorm":
        problems.append(f'norm_layer must be LayerNorm, got "{norm_layer}"')
    if upsampler != "pixelshuffle":
        problems.append(f'upsampler must be pixelshuffle, got "{upsampler}": without it there is nothing to upscale')
    if resi_connection not in ("1conv", "identity"):
        problems.append(f'resi_connection must be 1conv or identity, got "{resi_connection}"')
    if problems:
        raise InputError("HAT: " + "; ".join(problems))


def configuration_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``network_g`` mapping of the HAT that a state dict belongs to, read off its keys and shapes.

    What leaves no trace has its default: conv_scale, qk_scale, img_range, and img_size unless there are positions.

    Raises:
        InputError: the keys are not those of a HAT.
    """
    group = "layers.0.residual_group."
    try:
        rows = state[group + "overlap_attn.relative_position_bias_table"].shape[0]
        found = configuration_of_groups(state)
        inner = state[group + "blocks.0.conv_block.cab.0.weight"].shape[0]
        squeezed = state[group + "blocks.0.conv_block.cab.3.attention.1.weight"].shape[0]
    except KeyError as error:
        raise InputError(f"these weights are not a HAT's: the key {error} is missing") from None
    window = found["window_size"]
    return {
        "type": "HAT",
        "upscale": pixelshuffle_scale(state),
        "compress_ratio": found["embed_dim"] // inner,
        "squeeze_factor": found["embed_dim"] // squeezed,
        "overlap_ratio": (math.isqrt(rows) + 1 - 2 * window) / window,
        "upsampler": "pixelshuffle",
        **found,
    }
