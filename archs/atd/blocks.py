"""The layers of ATD: attention to a dictionary, in groups of similar pixels and in windows.

They take and give pixels in rows, [B, H, W, C].

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, n = H*W, C channels, h heads of width d; m tokens of the dictionary,
r width of its queries and keys; g pixels of a group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from archs.layers.conv_ffn import ConvFFN
from archs.layers.heads import joined_heads, separate_heads
from archs.layers.linear import Linear, initialise_linear
from archs.layers.swin import WindowParameters, attend_in_windows, head_width
from archs.layers.window import permuted
from ops import window_attention
from ops.registry import recording
from utils.errors import InputError

LARGEST_SCALE = math.log(100)
"""Of the logarithm of the logits' factor in groups, as published."""


class DictionaryAttention(nn.Module):
    """Each pixel asks the tokens of a dictionary.

    In the paper: ATD-CA, token dictionary cross-attention.

    Args:
        channels: C.
        num_tokens: m.
        reduced: r.
        bias: the projections have a bias.
    """

    def __init__(self, channels: int, num_tokens: int, reduced: int, bias: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((num_tokens,), 0.5))
        self.wq = Linear(channels, reduced, bias=bias)
        self.wk = Linear(channels, reduced, bias=bias)
        self.wv = Linear(channels, channels, bias=bias)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the pixels [B, n, C] get from the tokens [B, m, C].

        Returns:
            The values [B, n, C], how much each pixel attends to each token, [B, n, m], which sums to 1 over tokens, in
            float32 at least; and to which most, [B, n], the first of equals.
        """
        q, k = (_at_unit_length(layer(of)) for layer, of in ((self.wq, x), (self.wk, tokens)))
        factor = 1 + self.scale.clamp(0, 1).to(k.dtype) * math.log(len(self.scale))  # [m]
        logits = q @ (k * factor[:, None]).transpose(1, 2)  # [B, n, m]
        similarity = logits.softmax(-1)
        values = similarity.to(x.dtype) @ self.wv(tokens)
        return values, similarity, logits.argmax(-1)


class CategoryAttention(nn.Module):
    """Each pixel asks pixels of its category, wherever they are.

    In the paper: AC-MSA, adaptive category-based multi-head self-attention.

    Pixels are sorted by category, which leaves those of a category in the order of the image, and cut into groups of
    equal size. The last group is filled by the pixels before it, which then count twice.

    Args:
        channels: C.
        num_heads: h.
        group_size: g.
        bias: the projection has a bias.
    """

    def __init__(self, channels: int, num_heads: int, group_size: int, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.group_size = group_size
        self.logit_scale = nn.Parameter(torch.full((1, 1), math.log(10.0)))
        self.proj = Linear(channels, channels, bias=bias)

    def forward(self, qkv: Tensor, category: Tensor, multiple: int) -> Tensor:
        """[B, n, 3C] and the categories [B, n] -> [B, n, C], before the projection.

        Args:
            qkv: queries, keys and values side by side.
            category: a whole number of each pixel.
            multiple: of what n is one.
        """
        B, n = category.shape
        order, back = _sorted(category)
        rows = qkv.flatten(0, 1)
        if multiple % self.group_size == 0:  # no group is filled
            total, group = n, self.group_size
            rows = permuted(rows, order, back)
        else:
            group = min(n, self.group_size)
            total = -(-n // group) * group
            place = torch.arange(total, device=rows.device)
            place = torch.where(place < n, place, place - (total - n))
            rows = rows.index_select(0, order.view(B, n).index_select(1, place).flatten())
        q, k, v = separate_heads(rows.view(-1, group, rows.shape[-1]), self.num_heads)  # each [B*groups, h, g, d]
        factor = self.logit_scale.clamp(max=LARGEST_SCALE).exp().to(q.dtype)
        out = joined_heads(window_attention(q * factor, k, v, None, None, 1.0))  # [B*groups, g, C]
        out = out.reshape(B, total, -1)[:, :n].flatten(0, 1)
        return permuted(out, back, order).view(B, n, -1)


class Refinement(nn.Module):
    """The normalisation by which a dictionary learns from an image, under its published name.

    Args:
        num_tokens: m.
    """

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_tokens))
        self.bias = nn.Parameter(torch.zeros(num_tokens))

    def forward(self, similarity: Tensor) -> Tensor:
        """How much each token takes of each pixel: [B, n, m] -> [B, n, m], which sums to 1 over pixels.

        A softmax over pixels of similarities normalised over pixels: their mean and the bias cancel. The bias has a
        gradient of zero, which trainings on several devices ask for.
        """
        # Not by var, which takes ten times as long along rows.
        variance = (similarity - similarity.mean(1, keepdim=True)).square().mean(1, keepdim=True)  # [B, 1, m]
        rate = self.weight.to(similarity.dtype) * (variance + 1e-5).rsqrt() + 0 * self.bias.to(similarity.dtype)
        return (similarity * rate).softmax(1)


class ATDLayer(nn.Module):
    """The three attentions side by side, an MLP, and what the dictionary learns from the result.

    In the paper: a transformer layer with ATD-CA, AC-MSA and SW-MSA.

    Args:
        channels: C.
        num_heads: h, a divisor of C.
        window_size: side of the windows, of which the image's sides are multiples.
        shift: by how many pixels the windows are moved.
        category_size: g, pixels of a group.
        num_tokens: m.
        reduced: r.
        kernel_size: of the convolution in the MLP, odd.
        mlp_ratio: hidden channels of the MLP, divided by C.
        qkv_bias: projections have a bias.
        refines: the dictionary learns from the image; not in the last layer of a group.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        *,
        shift: int = 0,
        category_size: int = 128,
        num_tokens: int = 64,
        reduced: int = 4,
        kernel_size: int = 5,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        refines: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= shift < window_size:
            raise InputError(f"ATDLayer: the shift must be from 0 to {window_size - 1}, got {shift}")
        self.num_heads, self.window_size, self.shift = num_heads, window_size, shift
        self.scale = head_width(channels, num_heads) ** -0.5
        self.sigma = nn.Parameter(torch.zeros(num_tokens, 1)) if refines else None
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = Refinement(num_tokens) if refines else None
        self.wqkv = Linear(channels, 3 * channels, bias=qkv_bias)
        self.attn_win = WindowParameters(channels, num_heads, window_size, table_per_head=True)
        self.attn_atd = DictionaryAttention(channels, num_tokens, reduced, qkv_bias)
        self.attn_aca = CategoryAttention(channels, num_heads, category_size, qkv_bias)
        self.convffn = ConvFFN(channels, int(channels * mlp_ratio), kernel_size)
        nn.init.trunc_normal_(self.attn_win.relative_position_bias_table, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                initialise_linear(layer)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, H, W, C] and the dictionary of each image, [B, m, C] -> the same, changed."""
        B, H, W, C = x.shape
        normal = self.norm1(x)
        qkv = self.wqkv(normal)  # [B, H, W, 3C]
        looked_up, similarity, category = self.attn_atd(normal.flatten(1, 2), tokens)
        grouped = self.attn_aca(qkv.flatten(1, 2), category, self.window_size**2)
        windows = attend_in_windows(
            qkv, self.num_heads, self.window_size, self.shift, self.attn_win.bias(), self.scale
        )  # fmt: skip
        projected = self.attn_win.proj(windows).flatten(1, 2) + self.attn_aca.proj(grouped)  # [B, n, C]
        x = x + (projected + looked_up).view(B, H, W, C)
        x = x + self.convffn(x, self.norm2)
        if self.norm3 is None or self.sigma is None:
            return x, tokens
        learned = self.norm3(similarity).transpose(1, 2).to(x.dtype) @ x.flatten(1, 2)  # [B, m, C]
        kept = self.sigma.sigmoid().to(x.dtype)  # [m, 1]
        return x, kept * tokens + (1 - kept) * learned


class TokenLayers(nn.Module):
    """The layers of a group and the dictionary that they begin with, under their published names.

    Args:
        layers: of the group.
        num_tokens: m.
        channels: C.
        use_checkpoint: keep only what each layer is given for the backward pass, and run it again there.
    """

    def __init__(self, layers: Iterable[ATDLayer], num_tokens: int, channels: int, use_checkpoint: bool) -> None:
        super().__init__()
        self.td = nn.Parameter(torch.randn(num_tokens, channels))
        self.layers = nn.ModuleList(layers)
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        tokens = self.td.to(x.dtype).repeat(x.shape[0], 1, 1)  # [B, m, C]
        for layer in self.layers:
            if self.use_checkpoint and torch.is_grad_enabled():
                x, tokens = checkpoint(layer, x, tokens, use_reentrant=False, preserve_rng_state=False)
            else:
                x, tokens = layer(x, tokens)
        return x


def _at_unit_length(x: Tensor) -> Tensor:
    """[..., r] divided by its length, in float32 at least: categories are decided by small differences."""
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=-1)


def _sorted(category: Tensor) -> tuple[Tensor, Tensor]:
    """The order of the pixels of B images by category, and its inverse, both [B*n].

    Equal ones stay in the order of the image.
    """
    B, n = category.shape
    pixels = torch.arange(n, device=category.device)
    if recording():  # not every format has a stable sort, and none needs one for keys that differ
        order = (category * n + pixels).argsort(1)
    else:
        order = category.to(torch.int16).sort(dim=1, stable=True).indices
    first = n * torch.arange(B, device=category.device)[:, None]
    back = torch.empty_like(order).scatter_(1, order, pixels.expand(B, n))
    return (order + first).flatten(), (back + first).flatten()
