"""The network HAT, and what its weights tell about it.

Shapes: B images, c image channels, H W low-resolution pixels, C channels of the network, s scale.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from archs.contract import BaseNetwork
from archs.hat.blocks import (
    AttentionBlocks,
    HybridAttentionBlock,
    OverlappingCrossAttention,
    ResidualHybridAttentionGroup,
    check_size,
    extended_window,
)
from archs.layers.constants import PublishedConstants
from archs.layers.conv import Conv3x3, to_bhwc
from archs.layers.drop import drop_path_rates
from archs.layers.embedding import PatchEmbedding
from archs.layers.image import image_mean
from archs.layers.numbering import count_numbered
from archs.layers.parts import PartNames, matching
from archs.layers.position import published_overlapping_index, relative_position_index
from archs.layers.residual import residual_convolution
from archs.layers.size import SizeRule
from archs.layers.upsample import HeadedNetwork, head_layers, pixelshuffle_scale
from utils.errors import InputError
from utils.log import get_logger


class HAT(PublishedConstants, HeadedNetwork, BaseNetwork):
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
    takes_exact_images = True
    mean_e4: Tensor
    scale: int
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
        sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        _check_arguments(
            sides, patch_size, window_size, embed_dim, depths, num_heads, compress_ratio, squeeze_factor, overlap_ratio,
            norm_layer, upsampler, resi_connection,
        )  # fmt: skip
        grid = (sides[0] // patch_size, sides[1] // patch_size)
        self.scale = upscale
        self.img_range = img_range
        self.window_size = window_size
        self.extended = extended_window(window_size, overlap_ratio)
        self.size_rule = SizeRule(multiple=window_size, tile_multiple=window_size)
        self.receptive_radius = None  # the channel attention sees the whole image
        self.channels = in_chans
        # Integers stay what they are when the network is converted to another type.
        self.register_buffer("mean_e4", (image_mean(in_chans) * 1e4).round().int(), persistent=False)
        self.mean_dtype = torch.get_default_dtype()  # of the published constants, whatever type the weights take later

        self.absolute_pos_embed = nn.Parameter(torch.empty(1, math.prod(grid), embed_dim)) if ape else None
        self.conv_first = Conv3x3(in_chans, embed_dim)
        self.patch_embed = PatchEmbedding(embed_dim, patch_norm)
        self.pos_drop = nn.Dropout(drop_rate)
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
        shifts = (0, window_size // 2 if min(grid) > window_size else 0)
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            blocks = [hab(heads, shift=shifts[position % 2], drop_path=next(rates)) for position in range(depth)]
            group = AttentionBlocks(blocks, ocab(heads), use_checkpoint)
            self.layers.append(ResidualHybridAttentionGroup(group, embed_dim, resi_connection))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = residual_convolution(embed_dim, resi_connection)
        self.upsampler = upsampler
        for name, layer in head_layers(upsampler, embed_dim, upscale, in_chans, network="HAT").items():
            self.add_module(name, layer)
        if self.absolute_pos_embed is not None:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)

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

    def body(self, x: Tensor) -> Tensor:
        """The first features [B, C, H, W] -> those after all groups, [B, C, H, W]."""
        x = self.patch_embed(to_bhwc(x))
        if self.absolute_pos_embed is not None:
            pixels = self.absolute_pos_embed.shape[1]
            if x.shape[1] * x.shape[2] != pixels:
                raise InputError(
                    f"HAT: an image of {x.shape[1]} x {x.shape[2]} pixels cannot take the {pixels} absolute "
                    "positions (ape); give images of the size img_size"
                )
            x = x + self.absolute_pos_embed.view(1, *x.shape[1:])
        x = self.pos_drop(x)
        for layer in self.layers:
            x = layer(x)
        return cast("Tensor", self.norm(x)).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] in [0, 1] -> [B, c, s*H, s*W], not clamped."""
        check_size("HAT", (x.shape[2], x.shape[3]), (self.window_size, self.window_size))
        mean = (self.mean_e4.to(self.mean_dtype) / 1e4).to(x.dtype)
        x = ((x - mean) * self.img_range).contiguous(memory_format=torch.channels_last)
        first = self.conv_first(x.to(self.conv_first.weight.dtype))
        features = self.conv_after_body(self.body(first)) + first
        return self.head(features) / self.img_range + mean


def _check_arguments(
    sides: Sequence[int],
    patch_size: int,
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
    """Raise InputError with all mistakes at once; warn of windows that are silently not shifted."""
    problems = []
    if len(sides) != 2 or min(sides) < 1 or patch_size < 1 or window_size < 1:
        raise InputError(
            f"HAT: img_size must be one or two numbers, and with patch_size and window_size at least 1; got "
            f"{list(sides)}, {patch_size}, {window_size}"
        )
    if not depths or len(depths) != len(num_heads) or min(depths) < 1:
        problems.append(
            f"depths and num_heads must hold a number of at least 1 for each group; got {list(depths)} and "
            f"{list(num_heads)}"
        )
    if embed_dim < 1:
        problems.append(f"embed_dim must be at least 1, got {embed_dim}")
    problems += [
        f"num_heads: {heads} heads cannot share embed_dim {embed_dim} evenly"
        for heads in num_heads
        if heads < 1 or embed_dim % heads
    ]
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
    side = min(sides) // patch_size
    if side < window_size:
        problems.append(f"img_size {side} is smaller than window_size {window_size}; give at least {window_size}")
    if problems:
        raise InputError("HAT: " + "; ".join(problems))
    if side == window_size:
        get_logger().warning(
            "HAT: img_size is window_size, %d, so that no window is shifted, as published; a larger img_size shifts "
            "every other block", window_size,
        )  # fmt: skip


def configuration_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``network_g`` mapping of the HAT that a state dict belongs to, read off its keys and shapes.

    What leaves no trace has its default: conv_scale, qk_scale, img_range, and img_size unless there are positions.

    Raises:
        InputError: the keys are not those of a HAT.
    """
    group, block = "layers.{}.residual_group.", "layers.{}.residual_group.blocks.{}."
    groups = count_numbered(state, r"layers\.(\d+)\.residual_group\.overlap_attn\.qkv\.weight")
    if not groups or "conv_first.weight" not in state:
        raise InputError("these weights are not a HAT's: layers.0.residual_group.overlap_attn.qkv.weight is missing")
    first = block.format(0, 0)
    try:
        embed_dim, in_chans = state["conv_first.weight"].shape[:2]
        window = (math.isqrt(state[first + "attn.relative_position_bias_table"].shape[0]) + 1) // 2
        rows = state[group.format(0) + "overlap_attn.relative_position_bias_table"].shape[0]
        inner = state[first + "conv_block.cab.0.weight"].shape[0]
        squeezed = state[first + "conv_block.cab.3.attention.1.weight"].shape[0]
        hidden = state[first + "mlp.fc1.weight"].shape[0]
        depths = [count_numbered(state, rf"layers\.{i}\.residual_group\.blocks\.(\d+)\.norm1") for i in range(groups)]
        tables = [state[block.format(i, 0) + "attn.relative_position_bias_table"] for i in range(groups)]
    except KeyError as error:
        raise InputError(f"these weights are not a HAT's: the key {error} is missing") from None
    found: dict[str, Any] = {
        "type": "HAT",
        "upscale": pixelshuffle_scale(state),
        "in_chans": in_chans,
        "window_size": window,
        "compress_ratio": embed_dim // inner,
        "squeeze_factor": embed_dim // squeezed,
        "overlap_ratio": (math.isqrt(rows) + 1 - 2 * window) / window,
        "depths": depths,
        "embed_dim": embed_dim,
        "num_heads": [table.shape[1] for table in tables],
        "mlp_ratio": hidden / embed_dim,
        "upsampler": "pixelshuffle",
        "resi_connection": "1conv" if "conv_after_body.weight" in state else "identity",
    }
    if first + "attn.qkv.bias" not in state:
        found["qkv_bias"] = False
    if "patch_embed.norm.weight" not in state:
        found["patch_norm"] = False
    if "absolute_pos_embed" in state:
        found |= {"ape": True, "img_size": math.isqrt(state["absolute_pos_embed"].shape[1])}
    return found
