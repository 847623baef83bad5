"""The networks HiT-SRF, HiT-SIR and HiT-SNG, and what their weights tell about them.

Shapes: B images, c image channels, H W low-resolution pixels, C channels of the network, s scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from archs.hit.blocks import HierarchicalBlock, Kind
from archs.layers.drop import drop_path_rates
from archs.layers.frame import FramedNetwork, choice_problems, embedding_arguments, residual_kind
from archs.layers.numbering import count_numbered
from archs.layers.parts import PartNames, matching
from archs.layers.size import SizeRule
from archs.layers.swin import BlockSequence, ResidualGroup
from archs.layers.upsample import Upsampler, head_of
from utils.errors import InputError

Connection = Literal["1conv", "3conv"]
BASE, RATIOS = (8, 8), (0.5, 1, 2, 4, 6, 8)
"""Published."""


class _HiT(FramedNetwork):
    """Hierarchical windows without softmax.

    Args:
        img_size: side of the training patches, or height and width; matters to absolute positions alone.
        patch_size: must be 1.
        in_chans: channels c of input and output.
        embed_dim: channels C inside.
        depths: blocks of each group, at most as many as window ratios.
        num_heads: heads of each group; twice as many divide embed_dim.
        base_win_size: height and width of the base window, to which larger ones are pooled.
        mlp_ratio: hidden channels of the MLPs, divided by embed_dim.
        drop_rate: dropout after the embedding, after correlations and in MLPs.
        value_drop_rate: dropout of values in the second product of a correlation.
        drop_path_rate: stochastic depth of the last block, growing from 0 at the first.
        norm_layer: kind of the normalisations.
        ape: add learned absolute positions; images must then measure img_size.
        patch_norm: normalise the first features.
        use_checkpoint: save memory in training by computing each block twice.
        upscale: scale s.
        img_range: factor on the image inside the network.
        upsampler: how the image is made; '' for a network that restores images without a change of size.
        resi_connection: the convolutions at the end of each group and of the body.
        hier_win_ratios: sides of the windows of a group's blocks, divided by those of the base window.
    """

    kernels = ("conv3x3", "gelu_depthwise", "linear_rows")
    kind: ClassVar[Kind]

    def __init__(
        self,
        img_size: int | Sequence[int] = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 60,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        base_win_size: Sequence[int] = BASE,
        mlp_ratio: float = 2.0,
        drop_rate: float = 0.0,
        value_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: Literal["LayerNorm"] = "LayerNorm",
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int = 4,
        img_range: float = 1.0,
        upsampler: Upsampler = "pixelshuffledirect",
        resi_connection: Connection = "1conv",
        hier_win_ratios: Sequence[float] = RATIOS,
    ) -> None:
        super().__init__()
        sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        problems = choice_problems(
            upscale, patch_size, norm_layer, upsampler, resi_connection, get_args(Connection)
        )  # fmt: skip
        problems += _problems(self.kind, sides, embed_dim, depths, num_heads, base_win_size, hier_win_ratios)
        if problems:
            raise InputError(f"{type(self).__name__}: " + "; ".join(problems))
        base = (base_win_size[0], base_win_size[1])
        windows = [(int(base[0] * ratio), int(base[1] * ratio)) for ratio in hier_win_ratios[: max(depths)]]
        self.size_rule = SizeRule(
            tile_multiple=math.lcm(*(side for window in windows for side in window)) * (2 if self.kind == "SNG" else 1)
        )
        self.receptive_radius = None
        self.begin(
            in_chans, embed_dim, upscale, img_range,
            positions=math.prod(sides) if ape else None, patch_norm=patch_norm, drop=drop_rate,
        )  # fmt: skip
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            blocks = [
                HierarchicalBlock(
                    embed_dim, window, base, heads, kind=self.kind, mlp_ratio=mlp_ratio, drop=drop_rate,
                    value_drop=value_drop_rate, drop_path=next(rates),
                )
                for window in windows[:depth]
            ]  # fmt: skip
            self.layers.append(ResidualGroup(BlockSequence(blocks, use_checkpoint), embed_dim, resi_connection))
        self.end(embed_dim, upsampler, resi_connection)

    def part_names(self) -> PartNames:
        """Its groups; the blocks of each."""
        group = r"layers\.\d+"
        return PartNames(matching(self, group), matching(self, group + r"\.residual_group\.blocks\.\d+"))


class HiTSRF(_HiT):
    """HiT-SRF, after SRFormer: MLPs with a depthwise convolution."""

    kind = "SRF"


class HiTSIR(_HiT):
    """HiT-SIR, after SwinIR."""

    kind = "SIR"


class HiTSNG(_HiT):
    """HiT-SNG, after SwinIR-NG: windows know of their neighbours."""

    kind = "SNG"


def _problems(
    kind: Kind,
    sides: Sequence[int],
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    base: Sequence[int],
    ratios: Sequence[float],
) -> list[str]:
    """What is wrong with the sizes, all of it."""
    problems = []
    if len(sides) != 2 or min(sides) < 1:
        problems.append(f"img_size must be one or two numbers of at least 1, got {list(sides)}")
    if not depths or len(depths) != len(num_heads) or min(depths) < 1 or max(depths) > len(ratios):
        problems.append(
            f"depths and num_heads must hold a number for each group, depths from 1 to {len(ratios)}, as many as "
            f"hier_win_ratios; got {list(depths)} and {list(num_heads)}"
        )
    if embed_dim < 16:
        problems.append(f"embed_dim must be at least 16, which leaves the position network a channel; got {embed_dim}")
    problems += [
        f"num_heads: {heads} heads cannot share half of embed_dim {embed_dim} evenly"
        for heads in num_heads
        if heads < 1 or embed_dim % (2 * heads)
    ]
    if len(base) != 2 or min(base) < 1:
        return [*problems, f"base_win_size must be two numbers of at least 1, got {list(base)}"]
    for ratio in ratios[: max(depths, default=0)]:
        window = [int(side * ratio) for side in base]
        if min(window) < 1 or any(side % min(side, least) for side, least in zip(window, base, strict=True)):
            problems.append(
                f"hier_win_ratios: {ratio:g} makes windows of {window[0]} x {window[1]}; larger sides than those of "
                f"base_win_size, {list(base)}, must be multiples of them"
            )
        elif kind == "SNG" and window[0] != window[1]:
            problems.append(f"hier_win_ratios: windows must be squares, {ratio:g} makes {window[0]} x {window[1]}")
    return problems


def configuration_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``network_g`` mapping of the HiT-SR network that a state dict belongs to, read off its keys and shapes.

    The base window leaves no trace, so only networks with the published windows are known. What else leaves none,
    ``img_range``, has its default.

    Raises:
        InputError: the keys are not those of a HiT-SR network, or of one with other windows.
    """
    block = "layers.{}.residual_group.blocks.{}."
    first = block.format(0, 0)
    try:
        groups = count_numbered(state, r"layers\.(\d+)\.residual_group\.blocks\.0\.correlation\.spatial_linear")
        embed_dim, in_chans = state["conv_first.weight"].shape[:2]
        heads = [state[block.format(i, 0) + "correlation.pos.pos3.2.weight"].shape[0] for i in range(max(groups, 1))]
        hidden = state[first + "mlp.fc1.weight"].shape[0]
        depths = [count_numbered(state, rf"layers\.{i}\.residual_group\.blocks\.(\d+)\.") for i in range(groups)]
        cells = [
            state[block.format(i, j) + "correlation.spatial_linear.weight"].shape[1]
            for i, depth in enumerate(depths)
            for j in range(depth)
        ]
        upsampler, upscale = head_of(state, in_chans)
    except KeyError as error:
        raise InputError(f"these weights are not those of a HiT-SR network: the key {error} is missing") from None
    published = [int(max(1, ratio)) ** 2 for ratio in RATIOS]
    if max(depths) > len(RATIOS) or cells != [cell for depth in depths for cell in published[:depth]]:
        raise InputError(
            "these are the weights of a HiT-SR network with other windows than the published ones, which cannot be "
            "told from them; give the network in an option file"
        )
    context = first + "correlation.ngram_window_partition.ngram_context.merge.weight" in state
    convolves = first + "mlp.dwconv.depthwise_conv.0.weight" in state
    found: dict[str, Any] = {
        "type": "HiT_SNG" if context else "HiT_SRF" if convolves else "HiT_SIR",
        "upscale": upscale,
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": heads,
        "mlp_ratio": hidden / embed_dim,
        "upsampler": upsampler,
        "resi_connection": residual_kind(state),
    }
    return found | embedding_arguments(state)
