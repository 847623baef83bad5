"""Depth-wise convolutions with GELU: in the middle of a convolutional MLP, and beside an attention.

Shapes: B images, H W pixels, C channels, K side of the kernel, odd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ops import build
from ops.depthwise import depthwise_conv2d
from ops.registration import register
from ops.registry import NATIVE, REFERENCE, Backend, Operator, only_on, recording
from utils.devices import types_here
from utils.errors import InputError

_LARGEST_SIDE = 63  # of the compiled kernels


class GeluDepthwiseArguments(NamedTuple):
    """The arguments of :func:`gelu_depthwise` as they travel."""

    x: Tensor  # [B, H, W, C]
    weight: Tensor  # [C, 1, K, K]
    bias: Tensor  # [C]


class GeluDepthwiseGradients(NamedTuple):
    """The arguments of its gradient."""

    grad: Tensor  # [B, H, W, C]
    x: Tensor
    weight: Tensor
    bias: Tensor
    again: bool  # the result is wanted as well


class GeluDepthwiseCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    side: int = 3


def gelu_depthwise(x: Tensor, weight: Tensor, bias: Tensor, backend: str = "auto") -> Tensor:
    """``t + gelu(depth-wise convolution of t + bias)`` with ``t = gelu(x)``, zeros around the image.

    GELU is the exact one, with erf. PyTorch's operators write and read the map six times; the compiled kernel, which
    serves the CPU, once each. It keeps x alone for its gradient, which computes the convolution again.

    Args:
        x: [B, H, W, C], any floating-point type.
        weight: [C, 1, K, K].
        bias: [C].
        backend: "auto", "native" or "reference" (see :func:`ops.explain`).

    Returns:
        [B, H, W, C], type of ``x``.

    Raises:
        InputError: shapes do not fit, or the chosen backend cannot serve this call.
    """
    C = x.shape[-1]
    side = weight.shape[-1]
    if x.ndim != 4 or weight.shape != (C, 1, side, side) or bias.shape != (C,) or side % 2 == 0:
        raise InputError(
            f"gelu_depthwise: x {list(x.shape)}, weight {list(weight.shape)}, bias {list(bias.shape)}; expected "
            f"[B, H, W, C], [C, 1, K, K] with an odd K, [C]"
        )
    call = GeluDepthwiseCall(device=x.device.type, side=side)
    return GELU_DEPTHWISE.choose(call, backend).run(GeluDepthwiseArguments(x, weight, bias))


class DepthwiseGeluArguments(NamedTuple):
    """The arguments of :func:`depthwise_gelu` as they travel."""

    x: Tensor  # [P, C]
    order: Tensor  # [B * H * W] int64
    weight: Tensor  # [C, 1, K, K]
    bias: Tensor  # [C]
    height: int  # H
    width: int  # W


class DepthwiseGeluGradients(NamedTuple):
    """The arguments of its gradient."""

    grad: Tensor  # [B, H, W, C]
    x: Tensor
    order: Tensor
    weight: Tensor
    bias: Tensor


def depthwise_gelu(
    x: Tensor, order: Tensor, size: tuple[int, int], weight: Tensor, bias: Tensor, backend: str = "auto"
) -> Tensor:
    """``gelu(depth-wise convolution of x[order] + bias)``, zeros around each image.

    The compiled kernel, which serves the CPU, reads pixels where they are and writes the result; so does its gradient,
    which keeps x alone.

    Args:
        x: [P, C], pixels in any order.
        order: [B * H * W] int64, which of them each pixel of the images is; for the kernel's gradient none twice.
        size: (H, W).
        weight: [C, 1, K, K].
        bias: [C].
        backend: "auto", "native" or "reference" (see :func:`ops.explain`).

    Returns:
        [B, H, W, C], type of ``x``.

    Raises:
        InputError: shapes do not fit, or the chosen backend cannot serve this call.
    """
    C, side = x.shape[-1], weight.shape[-1]
    pixels = size[0] * size[1]
    if x.ndim != 2 or order.ndim != 1 or pixels < 1 or order.shape[0] % pixels:
        raise InputError(
            f"depthwise_gelu: x {list(x.shape)} and order {list(order.shape)}, expected [P, C] and pixels of whole "
            f"images of {size[0]} x {size[1]}"
        )
    if weight.shape != (C, 1, side, side) or bias.shape != (C,) or side % 2 == 0:
        raise InputError(
            f"depthwise_gelu: weight {list(weight.shape)}, bias {list(bias.shape)}; expected [{C}, 1, K, K] with an "
            f"odd K, [{C}]"
        )
    call = GeluDepthwiseCall(device=x.device.type, side=side)
    return DEPTHWISE_GELU.choose(call, backend).run(DepthwiseGeluArguments(x, order, weight, bias, *size))


def reference_depthwise_gelu(arguments: DepthwiseGeluArguments) -> Tensor:
    """[B, H, W, C], by PyTorch's convolution."""
    x, order, weight, bias, height, width = arguments
    image = x.index_select(0, order).view(-1, height, width, x.shape[1])
    return F.gelu(depthwise_conv2d(image, weight, bias))


def native_depthwise_gelu(arguments: DepthwiseGeluArguments) -> Tensor:
    """[B, H, W, C], by ops/csrc/gelu_depthwise_cpu.cpp."""
    out: Tensor = torch.ops.focalsr.depthwise_gelu(*arguments)
    return out


def reference_gelu_depthwise(arguments: GeluDepthwiseArguments) -> Tensor:
    """[B, H, W, C], by PyTorch's convolution."""
    t = F.gelu(arguments.x)
    return t + F.gelu(depthwise_conv2d(t, arguments.weight, arguments.bias))


def native_gelu_depthwise(arguments: GeluDepthwiseArguments) -> Tensor:
    """[B, H, W, C], by ops/csrc/gelu_depthwise_cpu.cpp."""
    out: Tensor = torch.ops.focalsr.gelu_depthwise(*arguments)
    return out


def _refusal(call: GeluDepthwiseCall) -> str | None:
    if (reason := only_on(call.device, "cpu")) is not None:
        return reason
    if recording():
        return "a graph that is compiled or exported fuses PyTorch's own operators"
    if call.side > _LARGEST_SIDE:
        return f"its kernel is for sides up to {_LARGEST_SIDE}, and this one is {call.side}"
    return None


def _examples() -> Mapping[str, GeluDepthwiseCall]:
    return {device: GeluDepthwiseCall(device) for device in types_here()}


GELU_DEPTHWISE: Operator[GeluDepthwiseCall, Callable[[GeluDepthwiseArguments], Tensor]] = Operator(
    name="gelu_depthwise",
    backends=(
        Backend(
            NATIVE,
            native_gelu_depthwise,
            refusal=_refusal,
            merit="a compiled kernel of this project: rows of the map stay in the cache",
            missing=lambda call: build.cpu_extension("gelu_depthwise"),
        ),
        Backend(
            REFERENCE,
            reference_gelu_depthwise,
            refusal=lambda call: None,
            merit="PyTorch's convolution and GELU, which serve every call",
            shortfall="slower: the map is written and read six times",
        ),
    ),
    examples=_examples,
)


DEPTHWISE_GELU: Operator[GeluDepthwiseCall, Callable[[DepthwiseGeluArguments], Tensor]] = Operator(
    name="depthwise_gelu",
    backends=(
        Backend(
            NATIVE,
            native_depthwise_gelu,
            refusal=_refusal,
            merit="a compiled kernel of this project: pixels are read where they are, and sums stay in registers",
            missing=lambda call: build.cpu_extension("gelu_depthwise"),
        ),
        Backend(
            REFERENCE,
            reference_depthwise_gelu,
            refusal=lambda call: None,
            merit="PyTorch's gather, convolution and GELU, which serve every call",
            shortfall="slower: the map is written and read three times",
        ),
    ),
    examples=_examples,
)


def _fake(arguments: GeluDepthwiseArguments) -> Tensor:
    return arguments.x.new_empty(arguments.x.shape)


def _flops(sizes: Any) -> int:
    """Of the convolution."""
    return int(2 * math.prod(sizes.x) * math.prod(sizes.weight[2:]))


def _fake_after(arguments: DepthwiseGeluArguments) -> Tensor:
    x, order, _, _, height, width = arguments
    return x.new_empty(order.shape[0] // (height * width), height, width, x.shape[1])


def _flops_after(sizes: Any) -> int:
    """Of the convolution."""
    return int(2 * math.prod(sizes.order) * math.prod(sizes.weight))


def _fake_gradients(arguments: GeluDepthwiseGradients) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, weight, bias = (t.new_empty(t.shape) for t in (arguments.x, arguments.weight, arguments.bias))
    return x, weight, bias, x.new_empty(x.shape if arguments.again else (0,))


def _fake_gradients_after(arguments: DepthwiseGeluGradients) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, bias = (t.new_empty(t.shape) for t in (arguments.x, arguments.weight, arguments.bias))
    return x, weight, bias


def _flops_of_gradients(sizes: Any) -> int:
    """Of the convolution once more, and of the gradients of what it takes and of its kernel."""
    return int(6 * math.prod(sizes.grad) * math.prod(sizes.weight[2:]))


def _keep(ctx: Any, arguments: GeluDepthwiseArguments, output: Tensor) -> None:
    ctx.save_for_backward(*arguments)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *gradients, _ = torch.ops.focalsr.gelu_depthwise_backward(grad, *ctx.saved_tensors, False)
    return tuple(gradients)


def _keep_after(ctx: Any, arguments: DepthwiseGeluArguments, output: Tensor) -> None:
    ctx.save_for_backward(*arguments[:4])


def _differentiate_after(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    d_x, d_weight, d_bias = torch.ops.focalsr.depthwise_gelu_backward(grad, *ctx.saved_tensors)
    return d_x, None, d_weight, d_bias, None, None


register(
    "gelu_depthwise", GeluDepthwiseArguments, "Tensor",
    fake=_fake, flops=_flops, keep=_keep, differentiate=_differentiate,
)  # fmt: skip
register(
    "depthwise_gelu", DepthwiseGeluArguments, "Tensor",
    fake=_fake_after, flops=_flops_after, keep=_keep_after, differentiate=_differentiate_after,
)  # fmt: skip
register(
    "gelu_depthwise_backward", GeluDepthwiseGradients, "(Tensor d_x, Tensor d_weight, Tensor d_bias, Tensor out)",
    fake=_fake_gradients, flops=_flops_of_gradients,
)  # fmt: skip
register(
    "depthwise_gelu_backward", DepthwiseGeluGradients, "(Tensor d_x, Tensor d_weight, Tensor d_bias)",
    fake=_fake_gradients_after, flops=_flops_of_gradients,
)  # fmt: skip
