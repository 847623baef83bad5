"""The network SwinIR, and what its weights tell about it.

Shapes: B images, c image channels, H W low-resolution pixels, C channels of the network, s scale.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from archs.layers.drop import drop_path_rates
from archs.layers.frame import FramedNetwork, choice_problems
from archs.layers.parts import PartNames, matching
from archs.layers.size import SizeRule
from archs.layers.swin import (
    BlockSequence,
    ResidualGroup,
    check_size,
    configuration_of_groups,
    grid_of,
    shift_of,
    size_problems,
)
from archs.layers.upsample import Upsampler, head_of
from archs.swinir.blocks import SwinBlock
from utils.errors import InputError

Connection = Literal["1conv", "3conv"]


class SwinIR(FramedNetwork):
    """Restoration by shifted windows; SwinIR is classical, lightweight or for real photographs by its arguments.

    Two defaults are not the published ones, with which no network works: window_size (7) and upsampler ('').

    Args:
        img_size: side of the training patches, or height and width. Windows are shifted if it is larger than they are,
            whatever the size of the images that follow; the size of the absolute positions too.
        patch_size: must be 1.
        in_chans: channels c of input and output.
        embed_dim: channels C inside.
        depths: blocks of each group, every second one with shifted windows.
        num_heads: heads of each group, divisors of embed_dim.
        window_size: side of the windows; images must be multiples of it.
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
        upscale: scale s.
        img_range: factor on the image inside the network; 255 in the published networks for JPEG.
        upsampler: how the image is made: "pixelshuffle" (classical; 3 or a power of 2), "pixelshuffledirect"
            (lightweight; any scale), "nearest+conv" (real photographs; 2 or 4), or '' for a network that restores
            images without a change of size.
        resi_connection: the convolutions at the end of each group and of the body.
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
        window_size: int = 8,
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
        upsampler: Upsampler = "pixelshuffle",
        resi_connection: Connection = "1conv",
    ) -> None:
        super().__init__()
        grid = grid_of("SwinIR", img_size, patch_size, window_size)
        problems = size_problems(depths, num_heads, embed_dim, grid, window_size)
        problems += choice_problems(
            upscale, patch_size, norm_layer, upsampler, resi_connection, get_args(Connection)
        )  # fmt: skip
        if problems:
            raise InputError("SwinIR: " + "; ".join(problems))
        self.window_size = window_size
        self.size_rule = SizeRule(multiple=window_size, tile_multiple=window_size)
        reach = 1 if resi_connection == "1conv" else 2  # of the convolution behind each group
        # Convolutions before and behind: one, and at most four of the head.
        self.receptive_radius = 1 + sum(depth * (window_size - 1) + reach for depth in depths) + reach + 4
        self.begin(
            in_chans, embed_dim, upscale, img_range,
            positions=math.prod(grid) if ape else None, patch_norm=patch_norm, drop=drop_rate,
        )  # fmt: skip
        block = functools.partial(
            SwinBlock, embed_dim, window_size=window_size, grid=grid, mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias, qk_scale=qk_scale, drop=drop_rate, attn_drop=attn_drop_rate,
        )  # fmt: skip
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        shifts = (0, shift_of("SwinIR", grid, window_size))
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            blocks = [block(heads, shift=shifts[position % 2], drop_path=next(rates)) for position in range(depth)]
            self.layers.append(ResidualGroup(BlockSequence(blocks, use_checkpoint), embed_dim, resi_connection))
        self.end(embed_dim, upsampler, resi_connection)

    def part_names(self) -> PartNames:
        """Its groups; the blocks of each."""
        group = r"layers\.\d+"
        return PartNames(matching(self, group), matching(self, group + r"\.residual_group\.blocks\.\d+"))

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] in [0, 1] -> [B, c, s*H, s*W], not clamped."""
        check_size("SwinIR", (x.shape[2], x.shape[3]), (self.window_size, self.window_size))
        return super().forward(x)


def configuration_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``network_g`` mapping of the SwinIR that a state dict belongs to, read off its keys and shapes.

    What leaves no trace has its default: qk_scale; img_range, which is 255 where windows of 7 and no upsampler say that
    the network is one for JPEG; img_size, unless there are positions, or masks and tables as in published files.

    Raises:
        InputError: the keys are not those of a SwinIR.
    """
    first = "layers.0.residual_group.blocks."
    if any(f"layers.0.residual_group.{other}" in state for other in ("overlap_attn.qkv.weight", "blocks.0.conv_block")):
        raise InputError("these weights are not a SwinIR's: they have overlapping attention")
    try:
        found = configuration_of_groups(state)
        upsampler, upscale = head_of(state, found["in_chans"])
    except KeyError as error:
        raise InputError(f"these weights are not a SwinIR's: the key {error} is missing") from None
    window = found["window_size"]
    found = {"type": "SwinIR", "upscale": upscale, "upsampler": upsampler, **found}
    if first + "1.attn_mask" in state:
        found.setdefault("img_size", window * math.isqrt(state[first + "1.attn_mask"].shape[0]))
    elif first + "0.attn.relative_position_index" in state and first + "1.norm1.weight" in state:
        found.setdefault("img_size", window)  # the constants of a published file, and none of shifted windows
    if window == 7 and upsampler == "":
        found["img_range"] = 255.0
    return found
