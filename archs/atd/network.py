"""The network ATD, and what its weights tell about it.

Shapes: B images, c image channels, H W low-resolution pixels, C channels of the network, s scale.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from archs.atd.blocks import ATDLayer, TokenLayers
from archs.layers.constants import PublishedConstants
from archs.layers.frame import MirroringNetwork, choice_problems, embedding_arguments, residual_kind
from archs.layers.numbering import count_numbered
from archs.layers.parts import PartNames, matching
from archs.layers.position import relative_position_index
from archs.layers.size import SizeRule
from archs.layers.swin import ResidualGroup, size_problems
from archs.layers.upsample import Upsampler, head_of
from utils.errors import InputError

Connection = Literal["1conv", "3conv"]


class ATD(PublishedConstants, MirroringNetwork):
    """Super-resolution with an adaptive token dictionary; ATD and ATD-light by its arguments.

    The default upsampler is not the published one (''), with which no network works. Pixels of the same category share
    groups in the order of the image; published code leaves their order to the sort, which differs between machines.

    Args:
        img_size: side of the padded images; matters to absolute positions alone.
        patch_size: must be 1.
        in_chans: channels c of input and output.
        embed_dim: channels C inside.
        depths: layers of each group, every second one with shifted windows.
        num_heads: heads of each group, divisors of embed_dim; one number for all.
        window_size: side of the windows; images are padded to multiples of it, by mirroring.
        category_size: pixels of a group of similar ones.
        num_tokens: tokens of a dictionary.
        reducted_dim: width of its queries and keys.
        convffn_kernel_size: side of the depthwise convolution in the MLPs.
        mlp_ratio: hidden channels of the MLPs, divided by embed_dim.
        qkv_bias: projections have a bias, but for that after the windows, which always has one.
        norm_layer: kind of the normalisations.
        ape: add learned absolute positions; padded images must then have as many pixels as img_size says.
        patch_norm: normalise the first features.
        use_checkpoint: save memory in training by computing each layer twice.
        upscale: scale s.
        img_range: factor on the image inside the network.
        upsampler: how the image is made; '' for a network that restores images without a change of size.
        resi_connection: the convolutions at the end of each group and of the body.
    """

    kernels = ("window", "window_image", "conv3x3", "gelu_depthwise", "linear_rows")

    def __init__(
        self,
        img_size: int = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 90,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: int | Sequence[int] = (6, 6, 6, 6),
        window_size: int = 8,
        category_size: int = 128,
        num_tokens: int = 64,
        reducted_dim: int = 4,
        convffn_kernel_size: int = 5,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
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
        heads = [num_heads] * len(depths) if isinstance(num_heads, int) else list(num_heads)
        problems = size_problems(depths, heads, embed_dim, (window_size, window_size), window_size)
        problems += choice_problems(
            upscale, patch_size, norm_layer, upsampler, resi_connection, get_args(Connection)
        )  # fmt: skip
        problems += _problems(window_size, category_size, num_tokens, reducted_dim, convffn_kernel_size)
        if int(embed_dim * mlp_ratio) < 1:
            problems.append(f"mlp_ratio {mlp_ratio:g} leaves no hidden channel of embed_dim {embed_dim}")
        if problems:
            raise InputError("ATD: " + "; ".join(problems))
        self.window_size = window_size
        self.size_rule = SizeRule(tile_multiple=window_size)
        self.receptive_radius = None
        self.category_size = category_size
        self.begin(
            in_chans, embed_dim, upscale, img_range, positions=img_size**2 if ape else None, patch_norm=patch_norm
        )  # fmt: skip
        layer = functools.partial(
            ATDLayer, embed_dim, window_size=window_size, category_size=category_size, num_tokens=num_tokens,
            reduced=reducted_dim, kernel_size=convffn_kernel_size, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias,
        )  # fmt: skip
        shifts = (0, window_size // 2)
        self.layers = nn.ModuleList()
        for depth, count in zip(depths, heads, strict=True):
            layers = [layer(count, shift=shifts[i % 2], refines=i + 1 < depth) for i in range(depth)]
            group = TokenLayers(layers, num_tokens, embed_dim, use_checkpoint)
            self.layers.append(ResidualGroup(group, embed_dim, resi_connection))
        self.end(embed_dim, upsampler, resi_connection)

    @property
    def graph_sizes(self) -> tuple[int, int | None]:
        """Images whose pixels fill a group."""
        return math.isqrt(self.category_size - 1) // self.window_size * self.window_size + 1, None

    def published_constants(self) -> Mapping[str, Tensor]:
        """The index table of the position biases."""
        window = (self.window_size, self.window_size)
        return {"relative_position_index_SA": relative_position_index(window, torch.device("cpu"))}

    def part_names(self) -> PartNames:
        """Its groups; the layers of each."""
        group = r"layers\.\d+"
        return PartNames(matching(self, group), matching(self, group + r"\.residual_group\.layers\.\d+"))


def _problems(
    window_size: int, category_size: int, num_tokens: int, reducted_dim: int, convffn_kernel_size: int
) -> list[str]:
    """What is wrong with the sizes that are its own, all of it."""
    numbers = {
        "window_size": window_size, "category_size": category_size, "num_tokens": num_tokens,
        "reducted_dim": reducted_dim,
    }  # fmt: skip
    problems = [f"{name} must be at least 1, got {number}" for name, number in numbers.items() if number < 1]
    if convffn_kernel_size < 1 or convffn_kernel_size % 2 == 0:
        problems.append(f"convffn_kernel_size must be an odd number, got {convffn_kernel_size}")
    return problems


PUBLISHED: Mapping[tuple[int, ...], int] = {(210, *[6] * 6): 256, (48, *[6] * 4): 128}
"""Width and depths of ATD and ATD-light -> category_size, which their files do not tell."""


def configuration_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``network_g`` mapping of the published ATD that a state dict belongs to, read off its keys and shapes.

    How many pixels share a group leaves no trace, so only networks of published width and depths are known. What else
    leaves none, ``img_range``, has its default.

    Raises:
        InputError: the keys are not those of an ATD, or of one that has not been published.
    """
    layer = "layers.{}.residual_group.layers.{}."
    first = layer.format(0, 0)
    try:
        groups = count_numbered(state, r"layers\.(\d+)\.residual_group\.td$")
        tables = [state[layer.format(i, 0) + "attn_win.relative_position_bias_table"] for i in range(max(groups, 1))]
        embed_dim, in_chans = state["conv_first.weight"].shape[:2]
        reduced = state[first + "attn_atd.wq.weight"].shape[0]
        tokens = state["layers.0.residual_group.td"].shape[0]
        kernel_size = state[first + "convffn.dwconv.depthwise_conv.0.weight"].shape[-1]
        hidden = state[first + "convffn.fc1.weight"].shape[0]
        upsampler, upscale = head_of(state, in_chans)
    except KeyError as error:
        raise InputError(f"these weights are not an ATD's: the key {error} is missing") from None
    depths = [count_numbered(state, rf"layers\.{i}\.residual_group\.layers\.(\d+)\.") for i in range(groups)]
    category_size = PUBLISHED.get((embed_dim, *depths))
    if category_size is None:
        raise InputError(
            f"these are an ATD's weights with embed_dim {embed_dim} and depths {depths}; how many pixels share a group "
            "(category_size) cannot be told from them; give the network in an option file"
        )
    found: dict[str, Any] = {
        "type": "ATD",
        "upscale": upscale,
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": [table.shape[1] for table in tables],
        "window_size": (math.isqrt(tables[0].shape[0]) + 1) // 2,
        "category_size": category_size,
        "num_tokens": tokens,
        "reducted_dim": reduced,
        "convffn_kernel_size": kernel_size,
        "mlp_ratio": hidden / embed_dim,
        "upsampler": upsampler,
        "resi_connection": residual_kind(state),
    }
    if first + "wqkv.bias" not in state:
        found["qkv_bias"] = False
    return found | embedding_arguments(state)
