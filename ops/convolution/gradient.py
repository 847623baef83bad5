"""3x3 convolution by the compiled kernels with its gradients, on the CPU in float32.

Shapes: B images, H W pixels, C channels in, K channels out; T tiles of 4x4 results, P = 36 positions of a tile.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ops.registration import register

_TILES = 512
"""Whose products are summed at once: their transformed pixels take some MB, whatever the size of the images."""


class WeightArguments(NamedTuple):
    """The arguments of the transform of the weights."""

    weight: Tensor  # [K, C, 3, 3]
    turned: bool  # for the convolution that takes gradients of results to those of x


class TilesArguments(NamedTuple):
    """The arguments of the transforms of tiles."""

    x: Tensor  # [B, C, H, W], channels side by side
    first: int
    tiles: int


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution with zeros around the image, once differentiable.

    Args:
        x: [B, C, H, W] float32, channels side by side.
        weight: [K, C, 3, 3].
        bias: [K].

    Returns:
        [B, K, H, W], channels-last.
    """
    out: Tensor = _Convolution.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, torch.ops.focalsr.conv3x3_weight(weight, False), bias, weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad = channels_together(grad)
        d_x = d_weight = d_bias = None
        if wants_x:
            d_x = _convolve(grad, torch.ops.focalsr.conv3x3_weight(weight, True), None, weight.shape[1])
        if wants_weight:
            d_weight = weight_gradient(x, grad)
        if wants_bias:
            d_bias = grad.sum((0, 2, 3))
        return d_x, d_weight, d_bias


def _convolve(x: Tensor, transformed: Tensor, bias: Tensor | None, channels: int) -> Tensor:
    B, _, H, W = x.shape
    out = torch.empty(B, channels, H, W, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if out.numel() > 0:
        torch.ops.focalsr.conv3x3_out(x, transformed, bias, 1.0, 1, out)
    return out


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the weights of a 3x3 convolution, [K, C, 3, 3].

    Args:
        x: [B, C, H, W] float32, channels side by side.
        grad: [B, K, H, W] of the result, likewise.
    """
    (B, C, H, W), K = x.shape, grad.shape[1]
    tiles = B * -(-H // 4) * -(-W // 4)
    sums = x.new_zeros(36, min(K, C), max(K, C))
    for first in range(0, tiles, _TILES):
        count = min(_TILES, tiles - first)
        pixels = torch.ops.focalsr.conv3x3_tiles(x, first, count)  # [P, T, C]
        gradients = torch.ops.focalsr.conv3x3_gradient_tiles(grad, first, count)  # [P, T, K]
        # Products with few columns are slow, those with few rows are not.
        narrow, wide = (gradients, pixels) if K <= C else (pixels, gradients)
        sums.baddbmm_(narrow.mT, wide)
    taps = (_taps(x.device) @ sums.flatten(1)).view(3, 3, *sums.shape[1:])
    order = (2, 3, 0, 1) if K <= C else (3, 2, 0, 1)
    return taps.permute(order).contiguous()


def channels_together(x: Tensor) -> Tensor:
    """[B, C, H, W] whose channels lie side by side; a copy where they do not."""
    return x if x.shape[1] == 1 or x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)


@functools.cache
def _taps(device: torch.device) -> Tensor:
    """[9, 36]: what each position of a tile gives to each tap, by the points of ops/csrc/conv3x3.h."""
    points = [0.0, 0.625, -0.625, 1.5, -1.5]
    rows = []
    for point in points:
        distance = math.prod(point - other for other in points if other != point)
        rows.append([1 / distance, point / distance, point**2 / distance])
    by_point = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)
    return torch.kron(by_point, by_point).T.float().contiguous().to(device)


def _fake_weight(arguments: WeightArguments) -> Tensor:
    weight, turned = arguments
    channels, results = weight.shape[:2] if turned else (weight.shape[1], weight.shape[0])
    return weight.new_empty(36, -(-results // 16), channels, 16)


def _fake_tiles(arguments: TilesArguments) -> Tensor:
    x, _, tiles = arguments
    return x.new_empty(36, tiles, x.shape[1])


register("conv3x3_weight", WeightArguments, "Tensor", fake=_fake_weight)
register("conv3x3_tiles", TilesArguments, "Tensor", fake=_fake_tiles)
register("conv3x3_gradient_tiles", TilesArguments, "Tensor", fake=_fake_tiles)
