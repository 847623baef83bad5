"""The full-resolution ends of PlainUSR's local importance attention.

Shapes: B images, H W pixels, C channels, F pooled channels, h w windows, h' w' pixels of a map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ops import build
from ops.convolution.conv3x3 import Conv3x3Call, call_of, examples, refusal
from ops.convolution.gradient import channels_together
from ops.registration import Written, register
from ops.registry import NATIVE, REFERENCE, Backend, Operator
from utils.errors import InputError


class PoolArguments(NamedTuple):
    """The arguments of :func:`pointwise_soft_pool` as they travel."""

    x: Tensor  # [B, C, H, W]
    weight: Tensor  # [F, C]
    bias: Tensor  # [F]
    side: int
    step: int


class GateArguments(NamedTuple):
    """The arguments of :func:`importance_gate_` as they travel."""

    x: Written  # [B, C, H, W]
    coarse: Tensor  # [B, C, h', w']
    logits: bool


def pointwise_soft_pool(
    x: Tensor, weight: Tensor, bias: Tensor, *, side: int, step: int, backend: str = "auto"
) -> Tensor:
    """A 1x1 convolution, and of its result the mean of each window weighted by the exponentials of its values.

    Args:
        x: [B, C, H, W], no smaller than a window.
        weight: [F, C].
        bias: [F].
        side: of the windows.
        step: distance between windows; those that do not fit are dropped.
        backend: "auto", "native" or "reference" (see :func:`ops.explain`).

    Returns:
        [B, F, h, w].

    Raises:
        InputError: shapes do not fit, or the chosen backend cannot serve this call.
    """
    if weight.ndim != 2 or weight.shape[1] != x.shape[1] or min(x.shape[2:]) < side:
        raise InputError(
            f"pointwise_soft_pool: x {list(x.shape)}, weight {list(weight.shape)}, windows of {side} x {side}; "
            "expected [B, C, H, W] no smaller than a window, [F, C]"
        )
    call = call_of(x, weight, bias)
    return POINTWISE_SOFT_POOL.choose(call, backend).run(PoolArguments(x, weight, bias, side, step))


def importance_gate_(x: Tensor, coarse: Tensor, *, logits: bool = False, backend: str = "auto") -> Tensor:
    """Multiply x, in place, by a map stretched over it and by the logistic function of its own channel 0.

    Args:
        x: [B, C, H, W]; where no gradient is wanted.
        coarse: the map [B, C, h', w'], stretched bilinearly.
        logits: take the logistic function of the map, which is as large as x then.
        backend: "auto", "native" or "reference" (see :func:`ops.explain`).

    Returns:
        x.

    Raises:
        InputError: shapes do not fit, or the chosen backend cannot serve this call.
    """
    if coarse.shape[:2] != x.shape[:2] or (logits and coarse.shape != x.shape):
        raise InputError(
            f"importance_gate_: x {list(x.shape)}, map {list(coarse.shape)}; expected as many images and channels, and "
            "of logits as many pixels"
        )
    return IMPORTANCE_GATE.choose(call_of(x, coarse), backend).run(GateArguments(x, coarse, logits))


def reference_pool(arguments: PoolArguments) -> Tensor:
    """[B, F, h, w], by PyTorch's convolution and softmax."""
    x, weight, bias, side, step = arguments
    y = F.conv2d(x, weight[:, :, None, None], bias)
    windows = y.unfold(2, side, step).unfold(3, side, step).flatten(-2)  # [B, F, h, w, side^2]
    return (windows.softmax(-1) * windows).sum(-1)


def native_pool(arguments: PoolArguments) -> Tensor:
    """[B, F, h, w], by ops/csrc/importance_cpu.cpp."""
    x, weight, bias, side, step = arguments
    out: Tensor = torch.ops.focalsr.pointwise_soft_pool(channels_together(x), weight, bias, side, step)
    return out


def reference_gate(arguments: GateArguments) -> Tensor:
    """X, by PyTorch's interpolation and logistic function."""
    x, coarse, logits = arguments
    gate = torch.sigmoid(x[:, :1])
    if logits:
        return x.mul_(torch.sigmoid(coarse)).mul_(gate)
    return x.mul_(F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)).mul_(gate)


def native_gate(arguments: GateArguments) -> Tensor:
    """X, by ops/csrc/importance_cpu.cpp."""
    x, coarse, logits = arguments
    if x.shape[1] > 1 and x.stride(1) != 1:
        return x.copy_(native_gate(GateArguments(channels_together(x), coarse, logits)))
    if x.numel() > 0:
        torch.ops.focalsr.importance_gate(x, coarse.contiguous(memory_format=torch.channels_last), logits)
    return x


def _missing(call: Conv3x3Call) -> str | None:
    return build.cpu_extension("importance")


POINTWISE_SOFT_POOL: Operator[Conv3x3Call, Callable[[PoolArguments], Tensor]] = Operator(
    name="pointwise_soft_pool",
    backends=(
        Backend(
            NATIVE,
            native_pool,
            refusal=refusal,
            merit="a compiled kernel of this project: one pass over the map, one exponential for each value",
            missing=_missing,
        ),
        Backend(
            REFERENCE,
            reference_pool,
            refusal=lambda call: None,
            merit="PyTorch's convolution and softmax, which serve every call",
            shortfall="slower: every window is copied",
        ),
    ),
    examples=examples,
)

IMPORTANCE_GATE: Operator[Conv3x3Call, Callable[[GateArguments], Tensor]] = Operator(
    name="importance_gate_",
    backends=(
        Backend(
            NATIVE,
            native_gate,
            refusal=refusal,
            merit="a compiled kernel of this project: features are read and written once",
            missing=_missing,
        ),
        Backend(
            REFERENCE,
            reference_gate,
            refusal=lambda call: None,
            merit="PyTorch's interpolation and products, which serve every call",
            shortfall="slower: five passes over maps of full size",
        ),
    ),
    examples=examples,
)


def _fake_pool(arguments: PoolArguments) -> Tensor:
    x, weight, _, side, step = arguments
    down, across = ((length - side) // step + 1 for length in x.shape[2:])
    return x.new_empty(x.shape[0], down, across, weight.shape[0]).permute(0, 3, 1, 2)


def _pool_flops(sizes: Any) -> int:
    """Of the convolution."""
    return int(2 * math.prod(sizes.x) * sizes.weight[0])


register("pointwise_soft_pool", PoolArguments, "Tensor", fake=_fake_pool, flops=_pool_flops)
register("importance_gate", GateArguments, "()", fake=lambda arguments: None)
