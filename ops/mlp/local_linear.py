"""``linear(gelu_depthwise(x))``, the second half of a convolutional MLP, in training.

Shapes: B images, H W pixels, M channels in, C channels out, K side of the kernel, odd.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ops.autocast import autocast_is_on
from ops.mlp.gelu_depthwise import GELU_DEPTHWISE, GeluDepthwiseCall
from ops.registry import NATIVE


def local_linear(x: Tensor, taps: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear(gelu_depthwise(x, taps, offset), weight, bias)``, of which x alone is kept for the gradient.

    What the linear layer takes is made again by the kernel that computes the gradient of :func:`ops.gelu_depthwise`.

    Args:
        x: [B, H, W, M], for which :func:`serves_local_linear` is true.
        taps: [M, 1, K, K].
        offset: [M].
        weight: [C, M].
        bias: [C].

    Returns:
        [B, H, W, C].
    """
    out: Tensor = _LocalLinear.apply(x, taps, offset, weight, bias)  # type: ignore[no-untyped-call]
    return out


def serves_local_linear(x: Tensor, taps: Tensor, *others: Tensor) -> bool:
    """Whether :func:`local_linear` takes x with its parameters."""
    if autocast_is_on(x.device.type) or any(one.dtype != x.dtype for one in (taps, *others)):
        return False
    return GELU_DEPTHWISE.choose(GeluDepthwiseCall(x.device.type, side=taps.shape[-1])).name == NATIVE


class _LocalLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps, offset, weight)
        return F.linear(torch.ops.focalsr.gelu_depthwise(x, taps, offset), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, taps, offset, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])  # [B*H*W, C]
        upstream = (rows @ weight).view(x.shape)
        d_x, d_taps, d_offset, taken = torch.ops.focalsr.gelu_depthwise_backward(upstream, x, taps, offset, True)
        return d_x, d_taps, d_offset, rows.t() @ taken.flatten(0, 2), rows.sum(0)
