"""A convolution of each channel by itself.

Where maps lie channels last, cuDNN reaches a tenth of what the memory of an H100 allows at 7x7, and its gradient of a
kernel in float32 a hundredth. Kernels of this project serve there: ops/csrc/depthwise_cuda.cu.

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
"""Sides of kernels that the compiled convolution is made for."""


class DepthwiseArguments(NamedTuple):
    """The arguments of :func:`depthwise_conv2d` as they travel."""

    x: Tensor  # [B, H, W, C]
    weight: Tensor  # [C, 1, K, K]
    bias: Tensor | None  # [C]


class DepthwiseCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    dtype: torch.dtype = torch.float32
    side: int = 3


class ConvolveArguments(NamedTuple):
    """The arguments of the compiled convolution."""

    x: Tensor  # [B, H, W, C]
    weight: Tensor  # [C, 1, K, K]
    bias: Tensor | None  # [C]
    turned: bool  # the kernel is, by 180 degrees: the gradient of x out of that of the result


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
        side=side,
    )
    return DEPTHWISE.choose(call, backend).run(DepthwiseArguments(x, weight, bias))


def reference_depthwise(arguments: DepthwiseArguments) -> Tensor:
    """[B, H, W, C], by PyTorch's convolution."""
    x, weight, bias = arguments
    image = x.permute(0, 3, 1, 2)  # [B, C, H, W]
    channels, side = int(weight.shape[0]), int(weight.shape[-1])  # tensors while torch.jit.trace records
    return F.conv2d(image, weight, bias, padding=side // 2, groups=channels).permute(0, 2, 3, 1)


def native_depthwise(arguments: DepthwiseArguments) -> Tensor:
    """[B, H, W, C], by the kernels of ops/csrc/depthwise_cuda.cu."""
    device = arguments.x.device.type
    if autocast_is_on(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = arguments
        arguments = DepthwiseArguments(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    out: Tensor = _Convolution.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


class _Convolution(torch.autograd.Function):
    """The compiled convolution, differentiated by itself."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        out: Tensor = torch.ops.focalsr.depthwise_convolve(x, weight, bias, False)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        C, radius = weight.shape[0], weight.shape[-1] // 2
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        d_x = d_weight = d_bias = None
        # PyTorch is as fast or faster at the gradient of x for 3 x 3 (on an H100 1.1 to 1.5 times), and in half
        # precision at that of the kernel.
        theirs = [wants_x and radius == 1, wants_weight and x.dtype != torch.float32, False]
        if any(theirs):
            images = (tensor.permute(0, 3, 1, 2) for tensor in (grad, x))  # [B, C, H, W]
            d_x, d_weight, _ = torch.ops.aten.convolution_backward(
                *images, weight, None, [1, 1], [radius, radius], [1, 1], False, [0, 0], C, theirs
            )
            d_x = None if d_x is None else d_x.permute(0, 2, 3, 1)
        if wants_x and not theirs[0]:
            d_x = torch.ops.focalsr.depthwise_convolve(grad, weight, None, True)
        if wants_weight and not theirs[1]:
            d_weight = torch.ops.focalsr.depthwise_weight_gradient(x, grad, weight.shape[-1])
        if wants_bias:
            d_bias = grad.sum((0, 1, 2))
        return d_x, d_weight, d_bias


def _refusal(call: DepthwiseCall) -> str | None:
    if (elsewhere := only_on(call.device, "cuda")) is not None:
        return elsewhere
    if recording():
        return "a graph that is compiled or exported consists of PyTorch's own operators"
    if call.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"its kernels know no {str(call.dtype).removeprefix('torch.')}"
    if call.side not in SIDES:
        return f"its kernels are for sides of {', '.join(map(str, SIDES))}, and this one is {call.side}"
    return None


def _examples() -> Mapping[str, DepthwiseCall]:
    return {
        f"{device}, kernels of {side}": DepthwiseCall(device, side=side) for device in types_here() for side in (3, 9)
    }


DEPTHWISE: Operator[DepthwiseCall, Callable[[DepthwiseArguments], Tensor]] = Operator(
    name="depthwise_conv2d",
    backends=(
        Backend(
            NATIVE,
            native_depthwise,
            refusal=_refusal,
            merit="compiled kernels of this project for channels that lie last",
            missing=lambda call: build.cuda_extension("depthwise"),
        ),
        Backend(
            REFERENCE,
            reference_depthwise,
            refusal=lambda call: None,
            merit="PyTorch's convolution, which serves every call",
            shortfall="cuDNN is slow where channels lie last, most of all at the gradient of the kernel in float32",
        ),
    ),
    examples=_examples,
)


def _fake_convolve(arguments: ConvolveArguments) -> Tensor:
    return arguments.x.new_empty(arguments.x.shape)


def _convolve_flops(sizes: Any) -> int:
    return int(2 * math.prod(sizes.x) * sizes.weight[-1] ** 2)


def _fake(arguments: WeightGradientArguments) -> Tensor:
    side = arguments.side
    return arguments.x.new_empty((arguments.x.shape[-1], 1, side, side))


def _flops(sizes: Any) -> int:
    """Of the sums of products."""
    return int(2 * math.prod(sizes.x) * sizes.side**2)


register("depthwise_convolve", ConvolveArguments, "Tensor", fake=_fake_convolve, flops=_convolve_flops)
register("depthwise_weight_gradient", WeightGradientArguments, "Tensor", fake=_fake, flops=_flops)
