"""Attention in windows that are shifted in every other block, as SwinIR has it, and groups of such blocks.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, C channels; w side of a window, N = w*w pixels in it, n windows of all
images together; h heads of width D = C / h.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from archs.layers.conv import to_bhwc
from archs.layers.frame import embedding_arguments, residual_kind
from archs.layers.heads import joined_heads, separate_heads
from archs.layers.image_windows import image_windows
from archs.layers.linear import Linear, initialise_linear
from archs.layers.mask import shift_regions
from archs.layers.numbering import count_numbered
from archs.layers.places import AttentionPlaces, unpadded, window_places
from archs.layers.position import relative_position_index
from archs.layers.residual import Residual, residual_convolution
from archs.layers.window import shifted_merge, shifted_partition, window_merge, window_partition
from ops import Memo, RegionMask, RelativeBias, image_attention, serves_image, window_attention
from utils.errors import InputError
from utils.log import get_logger


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for each displacement.

    In the papers: (S)W-MSA.

    Args:
        channels: C.
        num_heads: h.
        window_size: w.
        qkv_bias: the projections to queries, keys and values have a bias.
        qk_scale: of the logits; None or 0 for D ** -0.5.
        attn_drop: dropout of attention weights.
        drop: dropout of the result.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        *,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = (window_size, window_size)
        self.scale = qk_scale or head_width(channels, num_heads) ** -0.5
        self.attn_drop = attn_drop
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        self.qkv = Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = Linear(channels, channels)
        self.proj_drop = nn.Dropout(drop)
        self.dense_bias = Memo()

    def bias(self) -> Tensor:
        """[h, N, N]."""
        return dense_bias_of(self.relative_position_bias_table, self.dense_bias)

    def forward(self, windows: Tensor, mask: RegionMask | None) -> Tensor:
        """[n, N, C] and the mask of the n / B windows of an image -> [n, N, C]."""
        # Each [n, h, N, D]: views of one tensor.
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.attn_drop if self.training else 0.0
        out = window_attention(q, k, v, self.bias(), mask, self.scale, dropout=dropout)
        return cast("Tensor", self.proj_drop(self.proj(out.transpose(1, 2).flatten(2))))

    def takes_images(self) -> bool:
        """Whether a kernel serves images without cutting them into windows."""
        return not (self.training and self.attn_drop > 0) and serves_image(self.qkv.weight)

    def of_image(self, x: Tensor, shift: int) -> Tensor:
        """From image to image, [B, H, W, C] -> [B, H, W, C], in windows that are shifted by so many pixels, or 0."""
        size = (x.shape[1], x.shape[2])
        check_size(type(self).__name__, size, self.window)
        if self.takes_images():
            windows = image_windows(size, self.window, (shift, shift), self.window[0], self.bias(), x.device)
            out, _ = image_attention(self.qkv(x), [windows], self.num_heads, self.scale)
            return cast("Tensor", self.proj_drop(self.proj(out)))
        if not shift:
            return window_merge(self(window_partition(x, self.window), None), self.window, size)
        mask = RegionMask(shift_regions(size, self.window, (shift, shift), x.device))
        # Rolled before the projection, which has three times the channels.
        rolled = torch.roll(x, (-shift, -shift), (1, 2))
        windows_ = self(window_partition(rolled, self.window), mask)
        return torch.roll(window_merge(windows_, self.window, size), (shift, shift), (1, 2))

    def places_in(self, x: Tensor, shift: int) -> tuple[AttentionPlaces, ...]:
        """Those of the windows of :meth:`of_image`; see :class:`archs.contract.AttentionModule`."""
        rows, columns = (unpadded(side, x.device) for side in x.shape[1:3])
        return (window_places(rows, columns, self.window, shift=(shift, shift)),)


class WindowParameters(nn.Module):
    """The bias table and the projection after the attention, under their published names."""

    def __init__(self, channels: int, num_heads: int, window_size: int, table_per_head: bool) -> None:
        super().__init__()
        columns = num_heads if table_per_head else 1
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, columns))
        self.proj = Linear(channels, channels)
        self.dense_bias = Memo()

    def bias(self) -> Tensor:
        """[h, N, N]."""
        return dense_bias_of(self.relative_position_bias_table, self.dense_bias)


def dense_bias_of(table: Tensor, memo: Memo) -> Tensor:
    """The bias [h, N, N] of a table [(2w - 1)^2, h], kept in evaluation."""
    side = (math.isqrt(table.shape[0]) + 1) // 2
    return memo(lambda: RelativeBias(table, relative_position_index((side, side), table.device)).dense(), table)


def attend_in_windows(qkv: Tensor, heads: int, window: int, shift: int, bias: Tensor, scale: float) -> Tensor:
    """Attention of what is projected already, in shifted windows.

    Args:
        qkv: [B, H, W, 3C], queries, keys and values side by side.
        heads: h.
        window: w.
        shift: by how many pixels the windows are moved; 0 for not at all.
        bias: [h, N, N].
        scale: of the logits.

    Returns:
        [B, H, W, C].
    """
    size, sides = (qkv.shape[1], qkv.shape[2]), (window, window)
    if serves_image(qkv):
        windows = image_windows(size, sides, (shift, shift), window, bias, qkv.device)
        return image_attention(qkv, [windows], heads, scale)[0]
    q, k, v = separate_heads(shifted_partition(qkv, sides, shift), heads)
    mask = RegionMask(shift_regions(size, sides, (shift, shift), qkv.device)) if shift else None
    out = joined_heads(window_attention(q, k, v, bias, mask, scale))
    return shifted_merge(out, sides, size, shift)


class BlockSequence(nn.Module):
    """The blocks of a group in their order, under their published name.

    Args:
        blocks: each from [B, H, W, C] to [B, H, W, C].
        use_checkpoint: keep only the input of each block for the backward pass, and run the block again there.
    """

    def __init__(self, blocks: Iterable[nn.Module], use_checkpoint: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.use_checkpoint = use_checkpoint

    def in_order(self) -> Sequence[nn.Module]:
        """What runs, one after the other."""
        return list(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        for block in self.in_order():
            if self.use_checkpoint and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class ResidualGroup(nn.Module):
    """Blocks and a convolution, around which the input passes.

    In the papers: RSTB, residual swin transformer block, of SwinIR; RHAG, residual hybrid attention group, of HAT.

    Args:
        blocks: those of the group in their order, as one module.
        channels: C.
        resi_connection: the convolution after the blocks.
    """

    def __init__(self, blocks: nn.Module, channels: int, resi_connection: Residual) -> None:
        super().__init__()
        self.residual_group = blocks
        self.conv = residual_convolution(channels, resi_connection)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        return x + to_bhwc(self.conv(self.residual_group(x).permute(0, 3, 1, 2)))


def head_width(channels: int, num_heads: int) -> int:
    """D; raises InputError where heads would differ."""
    if num_heads < 1 or channels % num_heads:
        raise InputError(f"{channels} channels cannot be shared evenly by {num_heads} heads")
    return channels // num_heads


def check_size(name: str, size: tuple[int, int], window: tuple[int, int]) -> None:
    """Raise InputError unless an image can be cut into windows."""
    if size[0] % window[0] or size[1] % window[1]:
        raise InputError(
            f"{name}: an image of {size[0]} x {size[1]} pixels cannot be cut into windows of "
            f"{window[0]} x {window[1]}; pad it to multiples, as models.upscale does"
        )


def initialise(module: nn.Module) -> None:
    """Published initial values: linear layers and tables normal (0.02), their biases 0; else the framework's."""
    for name, parameter in module.named_parameters():
        if name.endswith("relative_position_bias_table"):
            nn.init.trunc_normal_(parameter, std=0.02)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            initialise_linear(layer)


def grid_of(network: str, img_size: int | Sequence[int], patch_size: int, window_size: int) -> tuple[int, int]:
    """The sides for which a network's windows are made: img_size divided by patch_size.

    Raises:
        InputError: these are no sizes, or smaller than a window.
    """
    sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(sides) != 2 or min(sides) < 1 or patch_size < 1 or window_size < 1:
        raise InputError(
            f"{network}: img_size must be one or two numbers, and with patch_size and window_size at least 1; got "
            f"{list(sides)}, {patch_size}, {window_size}"
        )
    return sides[0] // patch_size, sides[1] // patch_size


def size_problems(
    depths: Sequence[int], num_heads: Sequence[int], embed_dim: int, grid: tuple[int, int], window_size: int
) -> list[str]:
    """What is wrong with the sizes of groups of shifted windows, all of it."""
    problems = []
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
    if min(grid) < window_size:
        problems.append(f"img_size {min(grid)} is smaller than window_size {window_size}; give at least {window_size}")
    return problems


def shift_of(network: str, grid: tuple[int, int], window_size: int) -> int:
    """By how many pixels every other block shifts its windows; warns where that is silently none, as published."""
    if min(grid) > window_size:
        return window_size // 2
    get_logger().warning(
        "%s: img_size is window_size, %d, so that no window is shifted, as published; a larger img_size shifts "
        "every other block", network, window_size,
    )  # fmt: skip
    return 0


def configuration_of_groups(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments that networks of such groups have in common, read off the weights.

    Raises:
        KeyError: the weights are those of another network.
    """
    block = "layers.{}.residual_group.blocks.{}."
    first = block.format(0, 0)
    embed_dim, in_chans = state["conv_first.weight"].shape[:2]
    groups = count_numbered(state, r"layers\.(\d+)\.residual_group\.blocks\.0\.attn\.qkv\.weight")
    tables = [state[block.format(i, 0) + "attn.relative_position_bias_table"] for i in range(max(groups, 1))]
    hidden = state[first + "mlp.fc1.weight"].shape[0]
    found: dict[str, Any] = {
        "in_chans": in_chans,
        "window_size": (math.isqrt(tables[0].shape[0]) + 1) // 2,
        "depths": [count_numbered(state, rf"layers\.{i}\.residual_group\.blocks\.(\d+)\.norm1") for i in range(groups)],
        "embed_dim": embed_dim,
        "num_heads": [table.shape[1] for table in tables],
        "mlp_ratio": hidden / embed_dim,
        "resi_connection": residual_kind(state),
    }
    if first + "attn.qkv.bias" not in state:
        found["qkv_bias"] = False
    return found | embedding_arguments(state)
