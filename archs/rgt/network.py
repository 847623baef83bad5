"""Blocks, groups and the network.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, C channels, M hidden channels of the MLP, s scale. Features have
their channels last, [B, H, W, C].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from archs.contract import BaseNetwork
from archs.layers.conv import Conv3x3, convolve, depthwise
from archs.layers.drop import DropPath, drop_path_rates
from archs.layers.image import image_mean
from archs.layers.linear import Linear, initialise_linear
from archs.layers.position_network import position_tables
from archs.layers.residual import residual_convolution
from archs.layers.size import SizeRule
from archs.layers.upsample import HeadedNetwork, head_layers
from archs.rgt.attention import RectangleWindowAttention, RecursiveGeneralizationAttention
from archs.rgt.recursion import GRAPH_SIZES, STRIDE, recursion_count
from ops.registry import recording
from utils.errors import InputError

Connection = Literal["1conv", "3conv"]
Tables = tuple[Tensor, ...]
"""The position tables of a block's two branches, each [R, n // 2]; empty where the block looks after itself."""


class SpatialGate(nn.Module):
    """The second half of the channels, normalised and convolved, times the first.

    In the published files: ``sg``, the gate inside the MLP of a block.

    Args:
        channels: M/2, of each half.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, M] -> [B, H, W, M/2]."""
        first, second = x.chunk(2, -1)
        return first * depthwise(self.conv, self.norm(second))


class GatedMLP(nn.Module):
    """Two linear maps with GELU and a spatial gate between them.

    In the paper: the MLP of a block.

    Args:
        channels: C.
        hidden: M, even.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.sg = SpatialGate(hidden // 2)
        self.fc2 = Linear(hidden // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        return cast("Tensor", self.fc2(self.sg(self.fc1.with_gelu(x))))


class Block(nn.Module):
    """Attention and MLP with residual connections, and the block's input once more, weighted by channel.

    In the paper: a block of L-SA or RG-SA with HAI, hybrid adaptive integration; its adaptor alpha is ``gamma``
    here.

    Args:
        channels: C.
        attention: of rectangular windows or of representatives.
        hidden: M, of the MLP.
        drop_path: rate of stochastic depth, for each of the two branches.
    """

    def __init__(
        self,
        channels: int,
        attention: RectangleWindowAttention | RecursiveGeneralizationAttention,
        hidden: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-4))  # hybrid adaptive integration
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention
        self.drop_path = DropPath(drop_path)
        self.mlp = GatedMLP(channels, hidden)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, recursions: int, tables: Tables = ()) -> Tensor:
        """[B, H, W, C], T of global attention, tables of the position bias -> [B, H, W, C]."""
        normal = self.norm1(x)
        if isinstance(self.attn, RectangleWindowAttention):
            y = x + self.drop_path(self.attn(normal, tables or None))
        else:
            y = x + self.drop_path(self.attn(normal, recursions))
        y = y + self.drop_path(self.mlp(self.norm2(y)))
        return torch.addcmul(y, self.gamma, x)


class Group(nn.Module):
    """Blocks and a convolution, with a residual connection.

    In the paper: a residual group.

    Args:
        channels: C.
        blocks: in their order.
        residual: the convolution.
    """

    def __init__(self, channels: int, blocks: Sequence[Block], residual: Connection) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.conv = residual_convolution(channels, residual)


class _Settings(NamedTuple):
    """What the blocks of all groups have in common."""

    channels: int
    hidden: int
    split_size: tuple[int, int]
    c_ratio: float
    qkv_bias: bool
    qk_scale: float | None
    attn_drop: float
    drop: float


class RGT(HeadedNetwork, BaseNetwork):
    """Recursive Generalization Transformer; RGT-S has six groups, RGT eight.

    Args:
        img_size: accepted for the sake of published files, without effect.
        in_chans: channels of input and output.
        embed_dim: C, width of the features.
        depth: blocks of each group; even ones attend in windows, odd ones to the whole image.
        num_heads: heads n of each group, at least 2.
        mlp_ratio: M / C, hidden width of the MLPs.
        qkv_bias: whether queries, keys and values have a bias.
        qk_scale: of the logits of both attentions; by default it follows from the width of the heads.
        drop_rate: dropout rate behind both attentions.
        attn_drop_rate: dropout rate of the attention weights.
        drop_path_rate: stochastic depth of the last block; the rates rise linearly from 0. Also 0.1 in training if the
            key is absent, as in the published files.
        use_chk: compute each block again in the backward pass instead of keeping what it needs.
        upscale: s, scale: a power of two, or 3.
        img_range: factor on the input.
        resi_connection: convolutions at the end of each group and of the body: "1conv" or "3conv".
        split_size: sides of the rectangular windows, powers of two up to 64.
        c_ratio: width of queries and keys in global attention, as a part of C.
        recursions: fixes how often global attention shrinks the image (T); by default the published rule decides,
            which for patches outside 64 to 255 pixels says one thing in training and another afterwards.
    """

    kernels = ("window", "window_image", "conv3x3")
    takes_exact_images = True

    def __init__(
        self,
        img_size: int = 64,
        in_chans: int = 3,
        embed_dim: int = 180,
        depth: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (2, 2, 2, 2),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_chk: bool = False,
        upscale: int = 2,
        img_range: float = 1.0,
        resi_connection: Connection = "1conv",
        split_size: Sequence[int] = (8, 8),
        c_ratio: float = 0.5,
        recursions: int | None = None,
    ) -> None:
        super().__init__()
        self.mean_e4: Tensor
        hidden = int(embed_dim * mlp_ratio)
        problems = _problems(embed_dim, depth, num_heads, hidden, split_size, c_ratio, resi_connection, upscale)
        if recursions is not None and recursions < 0:
            problems.append(f"recursions must be at least 0, got {recursions}")
        if problems:
            raise InputError("RGT: " + "; ".join(problems))
        s0, s1 = split_size
        common = _Settings(embed_dim, hidden, (s0, s1), c_ratio, qkv_bias, qk_scale, attn_drop_rate, drop_rate)
        self.scale = upscale
        # Tiles on this grid cut neither windows nor the cells of global attention.
        self.size_rule = SizeRule(tile_multiple=max(s0, s1, STRIDE**2))
        self.window_multiple = max(s0, s1)
        self.receptive_radius = None
        self.img_range = img_range
        self.use_chk = use_chk
        self.recursions = recursions
        # Whole ten-thousandths: unlike floats they survive .half() and back.
        self.channels = in_chans
        self.register_buffer("mean_e4", (image_mean(in_chans) * 1e4).round().int(), persistent=False)

        self.conv_first = Conv3x3(in_chans, embed_dim)
        self.before_RG = nn.Sequential(nn.Identity(), nn.LayerNorm(embed_dim))
        rates = iter(drop_path_rates(drop_path_rate, sum(depth)))
        self.layers = nn.ModuleList(
            Group(embed_dim, [_block(common, i, j, heads, next(rates)) for j in range(blocks)], resi_connection)
            for i, (blocks, heads) in enumerate(zip(depth, num_heads, strict=True))
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = residual_convolution(embed_dim, resi_connection)
        self.upsampler = "pixelshuffle"
        for name, layer in head_layers(self.upsampler, embed_dim, upscale, in_chans, network="RGT").items():
            self.add_module(name, layer)
        self.apply(_initialise)

    @property
    def groups(self) -> list[Group]:
        """The residual groups."""
        return [cast("Group", group) for group in self.layers]

    @property
    def graph_sizes(self) -> tuple[int, int | None]:
        """Where global attention shrinks all images equally often."""
        return GRAPH_SIZES if self.recursions is None else (STRIDE**self.recursions, None)

    def given_to(self) -> dict[str, str]:
        """A group's result is what the first block of the next one is called with, that of the last one the norm."""
        followers = [f"layers.{number}.blocks.0" for number in range(1, len(self.layers))]
        return {f"layers.{number}": name for number, name in enumerate([*followers, "norm"])}

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] in [0, 1] -> [B, in_chans, s*H, s*W], not clamped."""
        mean = (self.mean_e4.float() / 1e4).to(x.dtype)  # the published constants are float32 in every type
        x = ((x - mean) * self.img_range).contiguous(memory_format=torch.channels_last)
        shallow = self.conv_first(x.to(self.conv_first.weight.dtype))
        features = self.norm(self._body(self.before_RG(shallow.permute(0, 2, 3, 1))))
        deep = self.conv_after_body(features.permute(0, 3, 1, 2)) + shallow
        return self.head(deep) / self.img_range + mean

    def _body(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        recursions = self.recursions_for(x.shape[1], x.shape[2])
        tables = self._position_tables()
        for group in self.groups:
            y = x
            for block in group.blocks:
                if self.use_chk and torch.is_grad_enabled():
                    y = checkpoint(block, y, recursions, tables.get(block, ()), use_reentrant=False)
                else:
                    y = block(y, recursions, tables.get(block, ()))
            x = x + convolve(group.conv, y)
        return x

    def recursions_for(self, height: int, width: int) -> int:
        """How often global attention shrinks an image of this size, in the mode in which the network is."""
        if self.recursions is None:
            return recursion_count(height, width, training=self.training)
        count = self.recursions
        while count > 0 and min(height, width) < STRIDE**count:
            count -= 1
        return count

    def _position_tables(self) -> dict[nn.Module, Tables]:
        """Block -> its position tables; empty where blocks keep theirs, which is when no gradient is wanted."""
        if not (torch.is_grad_enabled() or recording()):
            return {}
        branches = {
            block: block.attn.branches
            for group in self.groups
            for block in group.blocks
            if isinstance(block, Block) and isinstance(block.attn, RectangleWindowAttention)
        }
        tables = iter(position_tables([branch.pos for pair in branches.values() for branch in pair]))
        return {block: tuple(next(tables) for _ in pair) for block, pair in branches.items()}


def _block(common: _Settings, group: int, position: int, heads: int, drop_path: float) -> Block:
    channels = common.channels
    options = (common.qkv_bias, common.qk_scale, common.attn_drop, common.drop)
    attention: RectangleWindowAttention | RecursiveGeneralizationAttention
    if position % 2:
        attention = RecursiveGeneralizationAttention(channels, heads, common.c_ratio, *options)
    else:
        shifted = position % 4 == (0 if group % 2 else 2)
        attention = RectangleWindowAttention(channels, heads, common.split_size, shifted, *options)
    return Block(channels, attention, common.hidden, drop_path)


def _initialise(module: nn.Module) -> None:
    """Initial values of the published network; convolutions have the framework's, norms 1 and 0 already."""
    if isinstance(module, nn.Linear):
        initialise_linear(module)


def _problems(
    channels: int,
    depth: Sequence[int],
    num_heads: Sequence[int],
    hidden: int,
    split_size: Sequence[int],
    c_ratio: float,
    resi_connection: str,
    upscale: int,
) -> list[str]:
    """What is wrong with the arguments, all of it."""
    problems = []
    if len(depth) != len(num_heads) or not depth or min(depth) < 1:
        problems.append(
            "depth and num_heads must have one number of at least 1 for each group, "
            f"got {list(depth)} and {list(num_heads)}"
        )
    narrow = int(channels * c_ratio)
    if channels < 32 or channels % 2:
        problems.append(f"embed_dim must be even and at least 32, got {channels}")
    for heads in sorted(set(num_heads)):
        if heads < 2:
            problems.append(f"num_heads must be at least 2, got {heads}")
        elif channels % heads or channels // 2 % (heads // 2) or narrow % heads or narrow < 1:
            problems.append(
                f"{heads} heads must divide embed_dim {channels} and int(embed_dim * c_ratio) = {narrow}, "
                f"and {heads // 2} must divide embed_dim // 2 = {channels // 2}"
            )
    if hidden < 2 or hidden % 2:
        problems.append(f"int(embed_dim * mlp_ratio) must be even and at least 2, got {hidden}")
    if len(split_size) != 2 or any(side < 1 or side > 64 or side & (side - 1) for side in split_size):
        problems.append(f"split_size must be two powers of two from 1 to 64, got {list(split_size)}")
    if resi_connection not in get_args(Connection):
        problems.append(f'resi_connection must be "1conv" or "3conv", got "{resi_connection}"')
    if upscale != 3 and (upscale < 1 or upscale & (upscale - 1)):
        problems.append(f"upscale must be 3 or a power of two, got {upscale}")
    return problems
