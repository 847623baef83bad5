"""The blocks of ESC, from small to large. All but the smallest take and give pixels in rows, [B, H, W, C], of any size.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, C channels; E hidden channels; p filtered channels, the first of C; k side
of the large kernel; w side of a window, N = w*w, n windows of all images, h heads of width D = C / h.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from archs.esc.kernels import DYNAMIC_SIDE, convolve_symmetric, depthwise_by_image, depthwise_joined
from archs.layers.conv import Conv3x3, convolve, pointwise
from archs.layers.places import AttentionPlaces, reflected, window_places
from archs.layers.position import bias_by_displacement
from archs.layers.reflect import crop, reflect_to_multiple
from archs.layers.window import window_merge, window_partition
from ops import Memo, gelu_depthwise, linear, window_attention
from ops.autocast import without_autocast
from utils.devices import without_values
from utils.errors import InputError

AttentionType = Literal["auto", "Naive", "SDPA", "Flex"]

BACKENDS = {"auto": "auto", "Naive": "reference", "SDPA": "sdpa", "Flex": "flex"}
"""``attn_type`` -> backend of :func:`ops.window_attention`, which serves wherever it can and another one elsewhere."""


class Norm(nn.LayerNorm):
    """Layer norm of the channels of each pixel.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)


class FeedForward(nn.Module):
    """Two 1x1 convolutions with a depthwise 3x3 one between them.

    In the paper: FFN, the feed-forward network.

    Args:
        channels: C.
        hidden: E.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, hidden, 1)
        self.dwc = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.aggr = nn.Conv2d(hidden, channels, 1)

    def hidden(self, x: Tensor) -> Tensor:
        """Everything but the last convolution: [B, H, W, C] -> [B, H, W, E]."""
        return gelu_depthwise(pointwise(self.proj, x), self.dwc.weight, cast("Tensor", self.dwc.bias))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        return pointwise(self.aggr, self.hidden(x))


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for each displacement; the image is reflected to fill them.

    In the paper: the one window attention of a block, computed by fused attention kernels.

    Args:
        channels: C.
        num_heads: h, a divisor of C.
        window_size: w.
        attn_type: which implementation is preferred.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int, attn_type: AttentionType = "auto") -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise InputError(f"WindowAttention: {channels} channels cannot be shared evenly by {num_heads} heads")
        if attn_type not in get_args(AttentionType):
            known = ", ".join(get_args(AttentionType))
            raise InputError(f'WindowAttention: attn_type is "{attn_type}"; it must be one of {known}')
        self.num_heads = num_heads
        self.window = (window_size, window_size)
        self.backend = BACKENDS[attn_type]
        self.relative_position_bias = nn.Parameter(0.001 * torch.randn(num_heads, (2 * window_size - 1) ** 2))
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.to_out = nn.Conv2d(channels, channels, 1)
        self.dense_bias = Memo()

    def bias(self) -> Tensor:
        """[h, N, N]."""
        table = self.relative_position_bias
        return self.dense_bias(lambda: bias_by_displacement(table, self.window), table)

    def attention_places(self, x: Tensor) -> tuple[AttentionPlaces, ...]:
        """Those of the windows; see :class:`archs.contract.AttentionModule`."""
        rows, columns = (reflected(side, self.window[0], x.device) for side in x.shape[1:3])
        return (window_places(rows, columns, self.window),)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        size = (x.shape[1], x.shape[2])
        x = reflect_to_multiple(x, self.window[0])
        windows = pointwise(self.to_qkv, window_partition(x, self.window))  # [n, N, 3C]
        # Each [n, h, N, D]: views of one tensor.
        q, k, v = windows.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        out = window_attention(q, k, v, self.bias(), backend=self.backend, strict=False)
        merged = window_merge(out.transpose(1, 2).flatten(2), self.window, (x.shape[1], x.shape[2]))
        return pointwise(self.to_out, crop(merged, size))


class LargeKernel(nn.Module):
    """ESC's filter: the shared kernel, and beside it a depthwise one that is generated from each image.

    In the paper: the shared large kernel and the dynamic kernel of ConvAttn.

    Args:
        channels: p.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwc_proj = _kernel_generator(channels, channels // 2)
        for parameter in self.dwc_proj[3].parameters():
            nn.init.zeros_(parameter)

    def generated(self, u: Tensor) -> Tensor:
        """The kernels that are generated from images [B, H, W, p], [B, p, 3, 3]."""
        return _generate(self.dwc_proj, u)

    def forward(self, u: Tensor, kernel: Tensor) -> Tensor:
        """[B, H, W, p] and the shared kernel [p, p, k, k] -> [B, H, W, p]."""
        return convolve_symmetric(u, kernel) + depthwise_by_image(u, self.generated(u))


class DecomposedKernel(nn.Module):
    """ESC-FP's filter: a shared matrix, then a depthwise kernel, the shared one plus one generated from each image.

    In the paper: the decomposed kernel of ConvAttn in ESC-FP.

    Args:
        channels: p.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = _kernel_generator(channels, channels // 4)

    def generated(self, u: Tensor) -> Tensor:
        """The kernels that are generated from images [B, H, W, p], [B, p, 3, 3]."""
        return _generate(self.proj, u)

    def forward(self, u: Tensor, matrix: Tensor, kernel: Tensor) -> Tensor:
        """[B, H, W, p], the shared matrix [p, p, 1, 1] and kernel [p, 1, k, k] -> [B, H, W, p]."""
        small = self.generated(u)
        mixed = linear(u, matrix.flatten(1))
        return depthwise_joined(mixed, kernel, small)


class ConvolutionalAttention(nn.Module):
    """What ESC puts in the place of most attentions: a large kernel and a generated one on a part of the channels.

    In the paper: ConvAttn, convolutional attention.

    Args:
        channels: C.
        filtered: p of them are filtered, the others only mixed.
        decomposed: filter as ESC-FP does.
    """

    def __init__(self, channels: int, filtered: int, *, decomposed: bool = False) -> None:
        super().__init__()
        if not 1 <= filtered <= channels:
            raise InputError(f"ConvolutionalAttention: from 1 to {channels} channels can be filtered, got {filtered}")
        self.filtered = filtered
        self.plk: nn.Module = DecomposedKernel(filtered) if decomposed else LargeKernel(filtered)
        self.aggr = nn.Conv2d(channels, channels, 1)
        self.merged_weight = Memo()
        self.merged_bias = Memo()
        self.fused = True
        """Whether :meth:`after` may do without a call of this module; who wants to hook it says no."""

    def forward(self, x: Tensor, *kernels: Tensor) -> Tensor:
        """Filter and mix.

        Args:
            x: [B, H, W, C].
            kernels: those that are shared: one [p, p, k, k], k odd, to be made symmetric by
                :func:`archs.esc.symmetric_kernel`; a matrix [p, p, 1, 1] and kernels [p, 1, k, k] if decomposed.

        Returns:
            [B, H, W, C].
        """
        u, v = x.split([self.filtered, x.shape[-1] - self.filtered], -1)
        return pointwise(self.aggr, torch.cat([self.plk(u, *kernels), v], -1))

    def after(self, layer: nn.Conv2d, t: Tensor, *kernels: Tensor) -> Tensor:
        """``forward(layer(t), *kernels)`` for a 1x1 convolution.

        Nothing but the filter stands between the two, and it leaves most channels alone. So one matrix takes t to the
        filter's input and to its share of the result; what passes the filter is added.

        Args:
            layer: from E channels to C.
            t: [B, H, W, E].
            kernels: as for :meth:`forward`.

        Returns:
            [B, H, W, C].
        """
        if not self.fused or without_values(t.device):
            return cast("Tensor", self(pointwise(layer, t), *kernels))
        p = self.filtered
        first, second = layer.weight, self.aggr.weight
        bias, second_bias = cast("Tensor", layer.bias), cast("Tensor", self.aggr.bias)
        weight = self.merged_weight(lambda: _merged_weight(first, second, p), first, second)  # [p + C, E]
        offset = self.merged_bias(lambda: _merged_bias(bias, second, second_bias, p), bias, second, second_bias)
        u, rest = linear(t, weight, offset).split([p, second.shape[0]], -1)
        filtered = self.plk(u, *kernels).to(rest.dtype)  # the filter may compute in a type of its own
        out = torch.addmm(rest.flatten(0, 2), filtered.flatten(0, 2), second[:, :p, 0, 0].t())
        return out.view(rest.shape)


class BlockSettings(NamedTuple):
    """What the blocks of a network have in common.

    Attributes:
        dim: C.
        pdim: p.
        conv_blocks: convolutional attentions of a block.
        window_size: w.
        num_heads: h.
        exp_ratio: E / C of the MLP before each convolutional attention.
        norms: each of those MLPs has a norm.
        decomposed: the filter is ESC-FP's.
        attn_type: preferred implementation of the window attention.
    """

    dim: int
    pdim: int
    conv_blocks: int
    window_size: int
    num_heads: int
    exp_ratio: float
    norms: bool
    decomposed: bool
    attn_type: AttentionType

    @property
    def first(self) -> int:
        """Hidden channels E of the first MLP of a block."""
        return int(1.5 * self.dim) if self.decomposed else 2 * self.dim

    @property
    def inner(self) -> int:
        """Hidden channels E of the MLP before each convolutional attention."""
        return int(self.dim * self.exp_ratio)


class Block(nn.Module):
    """One window attention, then convolutional attentions.

    In the paper: an ESC block, window attention followed by layers of ConvAttn, each behind an FFN.

    Args:
        settings: sizes and kind.
    """

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__()
        C, count = settings.dim, settings.conv_blocks
        self.ln_proj = Norm(C)
        self.proj = FeedForward(C, settings.first)
        self.ln_attn = Norm(C)
        self.attn = WindowAttention(C, settings.num_heads, settings.window_size, settings.attn_type)
        self.lns = nn.ModuleList(Norm(C) if settings.norms else nn.Identity() for _ in range(count))
        self.pconvs = nn.ModuleList(
            ConvolutionalAttention(C, settings.pdim, decomposed=settings.decomposed) for _ in range(count)
        )
        self.convffns = nn.ModuleList(FeedForward(C, settings.inner) for _ in range(count))
        self.ln_out = Norm(C)
        self.conv_out = Conv3x3(C, C)

    def forward(self, x: Tensor, *kernels: Tensor) -> Tensor:
        """[B, H, W, C] and the shared kernels -> [B, H, W, C]."""
        y = self.proj(self.ln_proj(x))
        y = y + self.attn(self.ln_attn(y))
        for norm, convolution, mlp in zip(self.lns, self.pconvs, self.convffns, strict=True):
            attention, ffn = cast("ConvolutionalAttention", convolution), cast("FeedForward", mlp)
            y = y + attention.after(ffn.aggr, ffn.hidden(norm(y)), *kernels)
        return x + convolve(self.conv_out, self.ln_out(y))


def _kernel_generator(channels: int, hidden: int) -> nn.Sequential:
    """The layers under their published indices."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1), nn.GELU(),
        nn.Conv2d(hidden, channels * DYNAMIC_SIDE**2, 1),
    )  # fmt: skip


def _generate(layers: nn.Sequential, u: Tensor) -> Tensor:
    """[B, H, W, p] -> a kernel for each channel of each image, [B, p, 3, 3]."""
    means = u.mean((1, 2), dtype=torch.promote_types(u.dtype, torch.float32)).to(u.dtype)  # [B, p]
    kernels: Tensor = layers[1:](means[..., None, None])
    return kernels.view(*means.shape, DYNAMIC_SIDE, DYNAMIC_SIDE)


def _merged_weight(first: Tensor, second: Tensor, p: int) -> Tensor:
    """[C, E, 1, 1] and [C, C, 1, 1] -> [p + C, E]: the filter's input, and what passes it by and is mixed."""
    with without_autocast(first.device):
        a, b = (_exact(weight).flatten(1) for weight in (first, second))
        return torch.cat([a[:p], b[:, p:] @ a[p:]]).to(first.dtype)


def _merged_bias(first: Tensor, second: Tensor, second_bias: Tensor, p: int) -> Tensor:
    """[C], [C, C, 1, 1], [C] -> [p + C]."""
    with without_autocast(first.device):
        a, b = _exact(first), _exact(second).flatten(1)
        return torch.cat([a[:p], b[:, p:] @ a[p:] + _exact(second_bias)]).to(first.dtype)


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
