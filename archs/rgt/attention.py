"""The two attentions of RGT: inside rectangular windows, and of every pixel to a few that represent the image.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W pixels, N = H*W; C channels, h = C/2 of a branch; windows of T = s0*s1 tokens; n heads; r = Cr
channels of queries and keys in global attention; K representatives, a map of hh * ww.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.layers.constants import PublishedConstants
from archs.layers.conv import depthwise
from archs.layers.image_windows import image_windows
from archs.layers.linear import Linear
from archs.layers.mask import shift_mask, shift_regions
from archs.layers.places import AttentionPlaces, cell_places, framed, window_places
from archs.layers.position import relative_position_index
from archs.layers.position_network import PositionNetwork, relative_offsets
from archs.layers.window import Pair, window_merge, window_partition
from archs.rgt.recursion import STRIDE, recursion_bias, recursion_count, recursion_kernel
from ops import Memo, RegionMask, RelativeBias, image_attention, linear, serves_image, window_attention
from ops.observed import observer
from ops.registry import exporting, tracing
from utils.devices import without_values
from utils.errors import InputError

PUBLISHED_MASK_SIZE = (64, 64)
"""Published files hold the masks of an image of this size, whatever they were trained on."""

JOINED = 2
"""Recursions that evaluation does in one convolution: all there are below 1024 pixels. What comes after sees 1/256 of
the pixels, while the kernel would grow sixteenfold with each."""


class WindowBranch(PublishedConstants):
    """Attention in windows of one orientation, for one half of the channels.

    In the paper: one of the two window orientations of L-SA.

    Args:
        heads: of this branch.
        window: (rows, columns) of a window.
        shift: by how much windows are displaced; (0, 0) for those that are not.
        position_width: width P of the position network.
        scale: of the logits; None for the head width ** -0.5.
        dropout: probability to drop an attention weight in training.
    """

    def __init__(
        self, heads: int, window: Pair, shift: Pair, position_width: int, scale: float | None, dropout: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.shift = shift
        self.scale = scale
        self.dropout = dropout
        self.pos = PositionNetwork(position_width, heads, window)
        self.dense_bias = Memo()

    def published_constants(self) -> Mapping[str, Tensor]:
        """What published files hold beside the parameters."""
        device = torch.device("cpu")
        return {
            "rpe_biases": relative_offsets(self.window, device),
            "relative_position_index": relative_position_index(self.window, device),
        }

    def bias(self, table: Tensor | None) -> Tensor | RelativeBias:
        """The position bias from a table [R, n] if there is one already; kept in evaluation if not."""
        parameters = tuple(self.pos.parameters())
        index = relative_position_index(self.window, parameters[0].device)
        if table is not None:
            return RelativeBias(table, index)
        return self.dense_bias(lambda: RelativeBias(self.pos(), index).dense(), *parameters)

    def forward(self, qkv: Tensor, table: Tensor | None = None) -> Tensor:
        """[B, H, W, 3*h], sides being multiples of the window's, and the bias table [R, n] -> [B, H, W, h]."""
        size = (qkv.shape[1], qkv.shape[2])
        down, right = self.shift
        shifted = self.shift != (0, 0)
        mask = None
        if shifted:
            qkv = qkv.roll((-down, -right), (1, 2))
            mask = RegionMask(shift_regions(size, self.window, self.shift, qkv.device))
        windows = window_partition(qkv, self.window).unflatten(-1, (3, self.heads, -1))  # [B*n, T, 3, heads, width]
        q, k, v = windows.transpose(1, 3).unbind(2)  # each [B*n, heads, T, width]
        dropout = self.dropout if self.training else 0.0
        out = window_attention(q, k, v, self.bias(table), mask, self.scale, dropout=dropout)
        merged = window_merge(out.transpose(1, 2).flatten(2), self.window, size)
        return merged.roll((down, right), (1, 2)) if shifted else merged


class RectangleWindowAttention(PublishedConstants):
    """Attention in rectangular windows, which lie for one half of the channels and stand for the other.

    In the paper: L-SA, local self-attention in rectangular windows.

    Windows that stick out of the image are filled with zeros, and these join the softmax: published weights were
    trained with them.

    Args:
        channels: C, even.
        num_heads: n; each half has n // 2 of them.
        split_size: sides (s0, s1) of the windows of the first half; powers of two.
        shifted: displace the windows by half of their sides.
        qkv_bias: whether queries, keys and values have a bias.
        qk_scale: of the logits; None for the head width ** -0.5.
        attn_drop: dropout rate of the attention weights.
        drop: dropout rate of the result.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        split_size: Pair = (8, 32),
        shifted: bool = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        half, heads = channels // 2, num_heads // 2
        if channels % 2 or heads < 1 or half % heads:
            raise InputError(
                f"RectangleWindowAttention: {channels} channels cannot be two halves of num_heads // 2 = {heads} "
                "heads of equal width each"
            )
        width = half // 4 // 4
        if width < 1:
            raise InputError(f"RectangleWindowAttention: {channels} channels are too few; expected at least 32")
        if any(side < 1 or side > 64 or side & (side - 1) for side in split_size):
            raise InputError(
                f"RectangleWindowAttention: split_size must be powers of two from 1 to 64, got {list(split_size)}"
            )
        self.split_size = split_size
        self.qkv_bias = qkv_bias
        self.shifted = shifted
        self.qkv = Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = Linear(channels, channels)
        scale = qk_scale or None
        s0, s1 = split_size
        self.attns = nn.ModuleList(
            WindowBranch(
                heads, window, (window[0] // 2, window[1] // 2) if shifted else (0, 0), width, scale, attn_drop
            )
            for window in ((s0, s1), (s1, s0))
        )
        self.proj_drop = nn.Dropout(drop)
        self.get_v = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    @property
    def branches(self) -> tuple[WindowBranch, ...]:
        """The two halves."""
        return tuple(cast("WindowBranch", branch) for branch in self.attns)

    def published_constants(self) -> Mapping[str, Tensor]:
        """What published files hold beside the parameters."""
        if not self.shifted:
            return {}
        device = torch.device("cpu")
        return {
            f"attn_mask_{i}": shift_mask(PUBLISHED_MASK_SIZE, branch.window, branch.shift, device)
            for i, branch in enumerate(self.branches)
        }

    def attention_places(self, x: Tensor, *tables: object) -> tuple[AttentionPlaces, ...]:
        """Those of the windows of each half; see :class:`archs.contract.AttentionModule`."""
        rows, columns = (framed(side, max(self.split_size), x.device) for side in x.shape[1:3])
        return tuple(window_places(rows, columns, branch.window, shift=branch.shift) for branch in self.branches)

    def forward(self, x: Tensor, tables: tuple[Tensor, ...] | None = None) -> Tensor:
        """[B, H, W, C] and the two position tables [R, n // 2], if they are computed already -> [B, H, W, C]."""
        if self._takes_images():
            return cast("Tensor", self.proj_drop(self.proj(self._of_image(x, tables))))
        B, H, W, C = x.shape
        bias = self.qkv.bias if self.qkv_bias else None
        qkv = linear(x, _by_branch(self.qkv.weight), None if bias is None else _by_branch(bias))
        v = qkv.unflatten(-1, (2, 3, -1)).select(-2, 2).reshape(B, H, W, C)
        side = max(self.split_size)
        # As multiples, so that a graph with free sizes knows that windows divide them.
        below, right = (H + side - 1) // side * side - H, (W + side - 1) // side * side - W
        # Nor may a free size decide: an exported graph pads by nothing where nothing is missing.
        padded = exporting() or below > 0 or right > 0
        if padded:
            qkv = F.pad(qkv, (0, 0, 0, right, 0, below))
        halves = [
            branch(half, None if tables is None else tables[i])
            for i, (branch, half) in enumerate(zip(self.branches, qkv.chunk(2, -1), strict=True))
        ]
        y = torch.cat(halves, -1)
        if padded:
            # Of free sizes export cannot prove that a slice is inside; padding by less than nothing asks for no proof.
            y = F.pad(y, (0, 0, 0, -right, 0, -below)) if exporting() else y[:, :H, :W]
        y = y + depthwise(self.get_v, v)
        return cast("Tensor", self.proj_drop(self.proj(y)))

    def _takes_images(self) -> bool:
        """Whether a kernel serves images as they are."""
        drops = self.training and self.branches[0].dropout > 0
        return not drops and serves_image(self.qkv.weight)

    def _of_image(self, x: Tensor, tables: tuple[Tensor, ...] | None) -> Tensor:
        """Up to the projection, from image to image."""
        size, groups = (x.shape[1], x.shape[2]), []
        for i, branch in enumerate(self.branches):
            bias = branch.bias(None if tables is None else tables[i])
            dense = bias.dense() if isinstance(bias, RelativeBias) else bias
            groups.append(image_windows(size, branch.window, branch.shift, max(self.split_size), dense, x.device))
        first = self.branches[0]
        scale = first.scale or (x.shape[3] // 2 // first.heads) ** -0.5
        y, v = image_attention(self.qkv(x), groups, first.heads, scale, values=True)
        assert v is not None
        return y + depthwise(self.get_v, v)


def _by_branch(parameter: Tensor) -> Tensor:
    """Reorder [3*C, ...] (q, k, v, each with both halves) to half by half, each with q, k, v.

    The weights are few; reordering the result instead would copy three maps.
    """
    grouped: Tensor = parameter.unflatten(0, (3, 2, -1))
    return grouped.transpose(0, 1).flatten(0, 2)


class RecursiveGeneralizationAttention(nn.Module):
    """Attention of every pixel to a few representatives, the image shrunk by one convolution applied T times.

    In the paper: RG-SA, recursive-generalization self-attention; the representatives are its representative tokens.

    Rows and columns that do not fill a cell of 4**T pixels are not represented. Stands alone: it takes any map of
    features with channels last.

    Args:
        channels: C.
        num_heads: n, divides C and r.
        c_ratio: r / C; queries and keys are that much narrower than values.
        qkv_bias: whether queries, keys and values have a bias.
        qk_scale: of the logits; None for (C / n * c_ratio) ** -0.5.
        attn_drop: dropout rate of the attention weights.
        drop: dropout rate of the result.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        c_ratio: float = 0.5,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        narrow = int(channels * c_ratio)
        if num_heads < 1 or channels % num_heads or narrow < 1 or narrow % num_heads:
            raise InputError(
                f"RecursiveGeneralizationAttention: num_heads {num_heads} must divide the {channels} channels and the "
                f"int({channels} * c_ratio) = {narrow} of queries and keys"
            )
        self.num_heads = num_heads
        self.scale = qk_scale or (channels / num_heads * c_ratio) ** -0.5
        self.attn_drop = attn_drop
        self.reduction1 = nn.Conv2d(channels, channels, STRIDE, STRIDE, groups=channels)
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.conv = nn.Conv2d(channels, narrow, 1)
        self.norm_act = nn.Sequential(nn.LayerNorm(narrow), nn.GELU())
        self.q = Linear(channels, narrow, bias=qkv_bias)
        self.k = Linear(narrow, narrow, bias=qkv_bias)
        self.v = Linear(narrow, channels, bias=qkv_bias)
        self.cpe = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.proj = Linear(channels, channels)
        self.proj_drop = nn.Dropout(drop)
        self.joined_kernel, self.joined_bias = Memo(), Memo()

    def attention_places(self, x: Tensor, recursions: int | None = None) -> tuple[AttentionPlaces, ...]:
        """All of the map, and the squares that are represented; see :class:`archs.contract.AttentionModule`."""
        size = (x.shape[1], x.shape[2])
        return (cell_places(size, STRIDE ** self._recursions(size, recursions), x.device),)

    def forward(self, x: Tensor, recursions: int | None = None) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]; ``recursions`` is T, by default what :func:`recursion_count` says."""
        B, H, W, C = x.shape
        recursions = self._recursions((H, W), recursions)
        z = self.representatives(x, recursions)  # [B, hh, ww, r]
        values = self.v(z)
        values = (values + depthwise(self.cpe, values)).flatten(1, 2)
        k = self.k(z).flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, n, K, r/n]
        v = values.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, n, K, C/n]
        tokens = x.flatten(1, 2)
        # Folded, there are no queries to be observed, nor the published products to be counted.
        folded = observer() is None and not without_values(x.device) and self.worth_folding(k.shape[2])
        y = self._attend_folded(tokens, k, v) if folded else self._attend(tokens, k, v)
        return cast("Tensor", self.proj_drop(y)).view(B, H, W, C)

    def _recursions(self, size: Pair, recursions: int | None) -> int:
        return recursion_count(*size, training=self.training) if recursions is None else recursions

    def representatives(self, x: Tensor, recursions: int) -> Tensor:
        """[B, H, W, C] -> [B, hh, ww, r] with hh = H // 4**recursions, likewise ww; neither may be 0."""
        z = self._shrink(x.permute(0, 3, 1, 2), recursions)
        return cast("Tensor", self.norm_act(self.conv(self.dwconv(z)).permute(0, 2, 3, 1)))

    def _shrink(self, x: Tensor, recursions: int) -> Tensor:
        """[B, C, H, W] -> [B, C, hh, ww]."""
        layer = self.reduction1
        assert layer.bias is not None
        learning = torch.is_grad_enabled() and layer.weight.requires_grad and not tracing()
        if recursions == 0:
            # A term of zero gives the layer a gradient of zero: distributed training insists on one.
            return x + 0 * (layer.weight.sum() + layer.bias.sum()) if learning else x
        # Step by step in training: the backward pass of small kernels is faster than that of a large one.
        if recursions >= JOINED and not learning and not without_values(x.device):
            weight, bias = layer.weight, layer.bias
            kernel = self.joined_kernel(lambda: recursion_kernel(weight, JOINED), weight)
            shift = self.joined_bias(lambda: recursion_bias(weight, bias, JOINED), weight, bias)
            x = F.conv2d(x, kernel, shift, STRIDE**JOINED, groups=layer.groups)
            recursions -= JOINED
        for _ in range(recursions):
            x = layer(x)
        return x

    def worth_folding(self, keys: int) -> bool:
        """Whether projections folded into keys and values cost fewer products per pixel than projecting the pixels."""
        if exporting():
            return False  # the number of keys is not known yet
        channels, narrow = self.q.in_features, self.q.out_features
        return 2 * channels * self.num_heads * keys < channels * (narrow + channels) + keys * (narrow + channels)

    def _attend_folded(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Output projection included: x [B, N, C], k [B, n, K, r/n], v [B, n, K, C/n] -> [B, N, C].

        The logits are ``x a + c`` and the result ``p m + b``; neither queries nor heads of values ever exist per pixel.
        """
        heads = self.num_heads
        k, v = k.to(self.q.weight.dtype) * self.scale, v.to(self.proj.weight.dtype)
        a = torch.einsum("bnkd,ndc->bcnk", k, self.q.weight.unflatten(0, (heads, -1))).flatten(2)  # [B, C, n*K]
        m = torch.einsum("bnke,one->bnko", v, self.proj.weight.unflatten(1, (heads, -1))).flatten(1, 2)  # [B, n*K, C]
        logits = x @ a  # [B, N, n*K]
        if self.q.bias is not None:
            logits = logits + torch.einsum("bnkd,nd->bnk", k, self.q.bias.unflatten(0, (heads, -1))).flatten(1)[:, None]
        logits = logits.unflatten(-1, (heads, -1))
        weights = logits.softmax(-1, torch.promote_types(logits.dtype, torch.float32)).to(logits.dtype)
        weights = F.dropout(weights, self.attn_drop, self.training)
        return weights.flatten(2) @ m + self.proj.bias

    def _attend(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same without folding."""
        q = self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, n, N, r/n]
        k, v = k.to(q.dtype), v.to(q.dtype)  # each of the three may compute in a type of its own
        dropout = self.attn_drop if self.training else 0.0
        out = window_attention(q, k, v, scale=self.scale, dropout=dropout)  # [B, n, N, C/n]
        return cast("Tensor", self.proj(out.transpose(1, 2).flatten(2)))
