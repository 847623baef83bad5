"""A convolution of each channel by itself, whose kernel learns.

cuDNN computes the gradient of such a kernel in float32 slowly, where maps lie channels last: a third of PFT's training
step on an H100. Everything else about these convolutions is PyTorch's.

Shapes: B images, H W pixels, C channels, K side of the kernel, odd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ops import build
from ops.autocast import autocast_is_on
from ops.registration import register
from ops.registry import NATIVE, REFERENCE, Backend, Operator, only_on, recording
from utils.devices import types_here
from utils.errors import InputError

SIDES = (3, 5, 7)
"""Sides of kernels that the compiled gradient is made for."""


class DepthwiseArguments(NamedTuple):
    """The arguments of :func:`depthwise_conv2d` as they travel."""

    x: Tensor  # [B, H, W, C]
    weight: Tensor  # [C, 1, K, K]
    bias: Tensor | None  # [C]


class DepthwiseCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    dtype: torch.dtype = torch.float32
    learns: bool = True
    side: int = 3


class WeightGradientArguments(NamedTuple):
    """The arguments of the gradient of the kernel."""

    x: Tensor  # [B, H, W, C]
    grad: Tensor  # [B, H, W, C], of the result
    side: int  # K


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, backend: str = "auto") -> Tensor:
    """A convolution of each channel by itself, zeros around the image.

    Args:
        x: [B, H, W, C], any floating-point type. In float32 it meets weights of half precision in their type.
        weight: [C, 1, K, K].
        bias: [C], or None.
        backend: "auto", "native" or "reference" (see :func:`ops.explain`).

    Returns:
        [B, H, W, C], in the type of the product.

    Raises:
        InputError: shapes do not fit, or the chosen backend cannot serve this call.
    """
    C, side = x.shape[-1], weight.shape[-1]
    if x.ndim != 4 or weight.shape != (C, 1, side, side) or side % 2 == 0 or (bias is not None and bias.shape != (C,)):
        raise InputError(
            f"depthwise_conv2d: x {list(x.shape)}, weight {list(weight.shape)}, bias "
            f"{None if bias is None else list(bias.shape)}; expected [B, H, W, C], [C, 1, K, K] with an odd K, [C]"
        )
    device = x.device.type
    if x.dtype == torch.float32 and weight.dtype.itemsize == 2 and not autocast_is_on(device):
        x = x.to(weight.dtype)
    call = DepthwiseCall(
        device,
        dtype=torch.get_autocast_dtype(device) if autocast_is_on(device) else x.dtype,
        learns=torch.is_grad_enabled() and weight.requires_grad,
        side=side,
    )
    return DEPTHWISE.choose(call, backend).run(DepthwiseArguments(x, weight, bias))


def reference_depthwise(arguments: DepthwiseArguments) -> Tensor:
    """[B, H, W, C], by PyTorch's convolution."""
    x, weight, bias = arguments
    image = x.permute(0, 3, 1, 2)  # [B, C, H, W]
    return F.conv2d(image, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0]).permute(0, 2, 3, 1)


def native_depthwise(arguments: DepthwiseArguments) -> Tensor:
    """[B, H, W, C], by PyTorch's convolution, with the gradient of ops/csrc/depthwise_cuda.cu."""
    out: Tensor = _WithGradient.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


class _WithGradient(torch.autograd.Function):
    """The reference, differentiated by hand."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return reference_depthwise(DepthwiseArguments(x, weight, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        C, radius = weight.shape[0], weight.shape[-1] // 2
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        d_x = d_weight = d_bias = None
        if wants_x:
            images = (tensor.permute(0, 3, 1, 2) for tensor in (grad, x))  # [B, C, H, W]
            d_x, _, _ = torch.ops.aten.convolution_backward(
                *images, weight, None, [1, 1], [radius, radius], [1, 1], False, [0, 0], C, [True, False, False]
            )
            d_x = d_x.permute(0, 2, 3, 1)
        if wants_weight:
            d_weight = torch.ops.focalsr.depthwise_weight_gradient(x, grad, weight.shape[-1])
        if wants_bias:
            d_bias = grad.sum((0, 1, 2))
        return d_x, d_weight, d_bias


def _refusal(call: DepthwiseCall) -> str | None:
    if (elsewhere := only_on(call.device, "cuda")) is not None:
        return elsewhere
    if not call.learns:
        return "it is the gradient of a kernel that is compiled, and none is wanted"
    if recording():
        return "a graph that is compiled or exported consists of PyTorch's own operators"
    if call.dtype != torch.float32:
        return f"cuDNN's gradient in {str(call.dtype).removeprefix('torch.')} is fast enough"
    if call.side not in SIDES:
        return f"its kernels are for sides of {', '.join(map(str, SIDES))}, and this one is {call.side}"
    return None


def _examples() -> Mapping[str, DepthwiseCall]:
    return {
        f"{device}, {name}": DepthwiseCall(device, learns=learns)
        for device in types_here()
        for name, learns in (("evaluation", False), ("training", True))
    }


DEPTHWISE: Operator[DepthwiseCall, Callable[[DepthwiseArguments], Tensor]] = Operator(
    name="depthwise_conv2d",
    backends=(
        Backend(
            NATIVE,
            native_depthwise,
            refusal=_refusal,
            merit="the gradient of its kernel by a compiled kernel of this project",
            missing=lambda call: build.cuda_extension("depthwise"),
        ),
        Backend(
            REFERENCE,
            reference_depthwise,
            refusal=lambda call: None,
            merit="PyTorch's convolution, which serves every call",
            shortfall="in float32 on CUDA the gradient of its kernel is slow",
        ),
    ),
    examples=_examples,
)


def _fake(arguments: WeightGradientArguments) -> Tensor:
    side = arguments.side
    return arguments.x.new_empty((arguments.x.shape[-1], 1, side, side))


def _flops(sizes: Any) -> int:
    """Of the sums of products."""
    return int(2 * math.prod(sizes.x) * sizes.side**2)


register("depthwise_weight_gradient", WeightGradientArguments, "Tensor", fake=_fake, flops=_flops)
