"""3x3 convolution with what follows it at once: leaky ReLU, pixel shuffle.

Shapes: B images, H W pixels, C channels in, K channels out, s factor of the shuffle.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ops import build
from ops.autocast import autocast_is_on
from ops.convolution.gradient import channels_together, convolution
from ops.memo import Memo
from ops.registration import Written, register
from ops.registry import NATIVE, REFERENCE, Backend, Operator, evaluates_on, recording
from utils.errors import InputError

MOST_CHANNELS = 128
"""Of the kernel for matrices: with so many, what PyTorch's convolution does beside multiplying takes a large part."""


class Conv3x3Arguments(NamedTuple):
    """The arguments of :func:`conv3x3` as they travel."""

    x: Tensor  # [B, C, H, W]
    weight: Tensor  # [K, C, 3, 3]
    bias: Tensor | None  # [K]
    slope: float
    shuffle: int
    out: Tensor | None  # [B, K / s^2, s*H, s*W]
    memo: Memo


class TransformedArguments(NamedTuple):
    """The arguments of the compiled kernel."""

    x: Tensor  # [B, C, H, W], channels side by side
    weight: Tensor  # [36, panels, C, 16]
    bias: Tensor | None  # [K]
    slope: float
    shuffle: int
    out: Written  # [B, K / s^2, s*H, s*W]


class MatricesArguments(NamedTuple):
    """The arguments of the compiled kernel for CPUs that multiply matrices of bfloat16."""

    x: Tensor  # [B, C, H, W] bfloat16, channels side by side
    weight: Tensor  # [9, pairs of channels, K up to a multiple of 16] int32
    bias: Tensor | None  # [K]
    slope: float
    shuffle: int
    out: Written  # [B, K / s^2, s*H, s*W]


class PackArguments(NamedTuple):
    """The arguments of what packs its weights."""

    weight: Tensor  # [K, C, 3, 3]


class Conv3x3Call(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    dtype: torch.dtype | None = torch.float32
    gradient: bool = False
    autocast: bool = False
    channels: int = 0  # the larger number of the two


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    slope: float = 1.0,
    shuffle: int = 1,
    out: Tensor | None = None,
    memo: Memo | None = None,
    backend: str = "auto",
) -> Tensor:
    """A 3x3 convolution with zeros around the image, then leaky ReLU, then pixel shuffle.

    Compiled kernels serve float32 on the CPU, and bfloat16 where no gradient is wanted. They multiply a quarter as
    often (Winograd's minimal filtering), in float32; rounding errors are twice those of a direct sum in float32.
    Where the CPU multiplies matrices of bfloat16 (AMX), a kernel of such products serves it, up to 128 channels, and
    PyTorch's convolution above.

    Args:
        x: [B, C, H, W]. The kernel takes channels-last images as they are, also the first channels of wider ones.
        weight: [K, C, 3, 3].
        bias: [K].
        slope: of the leaky ReLU for negative results; 1 is none.
        shuffle: factor s of the pixel shuffle; 1 is none.
        out: where the result goes; memory that neither x nor a weight is in. Only where no gradient is wanted.
        memo: keeps the transformed weights between calls.
        backend: "auto", "native" or "reference" (see :func:`ops.explain`).

    Returns:
        [B, K / s^2, s*H, s*W]: ``out``, or a new tensor; of the compiled kernel a channels-last one, and a contiguous
        one where pixels are shuffled.

    Raises:
        InputError: shapes do not fit, or the chosen backend cannot serve this call.
    """
    expected = (x.shape[0], weight.shape[0] // shuffle**2, x.shape[2] * shuffle, x.shape[3] * shuffle)
    if weight.shape[1:] != (x.shape[1], 3, 3) or weight.shape[0] % shuffle**2:
        raise InputError(
            f"conv3x3: x {list(x.shape)}, weight {list(weight.shape)}, shuffle {shuffle}; expected [B, C, H, W], "
            f"[K, C, 3, 3], a multiple of {shuffle**2} as K"
        )
    if out is not None and out.shape != expected:
        raise InputError(f"conv3x3: out is {list(out.shape)}; expected {list(expected)}")
    call = call_of(x, weight, *(tensor for tensor in (bias, out) if tensor is not None))
    call = call._replace(channels=max(weight.shape[:2]))
    arguments = Conv3x3Arguments(x, weight, bias, slope, shuffle, out, memo or Memo())
    return CONV3X3.choose(call, backend).run(arguments)


def call_of(*tensors: Tensor) -> Conv3x3Call:
    """What the choice of a backend depends on, of the tensors of a call."""
    device, dtype = tensors[0].device.type, tensors[0].dtype
    return Conv3x3Call(
        device=device,
        dtype=dtype if all(tensor.dtype == dtype for tensor in tensors) else None,
        gradient=wants_gradient(*tensors),
        autocast=autocast_is_on(device),
    )


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether a backward pass may follow."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def reference_conv3x3(arguments: Conv3x3Arguments) -> Tensor:
    """[B, K / s^2, s*H, s*W], by PyTorch's convolution."""
    x, weight, bias, slope, shuffle, out, _ = arguments
    y = followed_by(F.conv2d(x, weight, bias, padding=1), slope, shuffle)
    return y if out is None else out.copy_(y)


def followed_by(y: Tensor, slope: float, shuffle: int) -> Tensor:
    """A convolution's result after leaky ReLU and pixel shuffle."""
    if slope != 1:
        y = F.leaky_relu(y, slope)
    return F.pixel_shuffle(y, shuffle) if shuffle > 1 else y


def native_conv3x3(arguments: Conv3x3Arguments) -> Tensor:
    """[B, K / s^2, s*H, s*W], by ops/csrc/conv3x3_cpu.cpp; once differentiable."""
    x, weight, bias, slope, shuffle, out, memo = arguments
    if wants_gradient(x, weight, *(() if bias is None else (bias,))):
        y = convolution(channels_together(x), weight, bias)
        return followed_by(y, slope, shuffle)
    if out is None:
        B, _, H, W = x.shape
        form = torch.contiguous_format if shuffle > 1 else torch.channels_last
        shape = (B, weight.shape[0] // shuffle**2, H * shuffle, W * shuffle)
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=form)
    if out.numel() == 0:
        return out
    if x.dtype == torch.bfloat16 and multiplies_matrices():
        return by_matrices(arguments._replace(out=out))
    transformed = memo(lambda: torch.ops.focalsr.conv3x3_weight(weight.float(), False), weight)
    torch.ops.focalsr.conv3x3_out(channels_together(x), transformed, bias, slope, shuffle, out)
    return out


def by_matrices(arguments: Conv3x3Arguments) -> Tensor:
    """``out``, of bfloat16, by ops/csrc/conv3x3_bf16_cpu.cpp: made for AMX, right on every CPU."""
    x, weight, bias, slope, shuffle, out, memo = arguments
    packed = memo(lambda: torch.ops.focalsr.conv3x3_matrices(weight), weight)
    assert out is not None
    torch.ops.focalsr.conv3x3_matrices_out(channels_together(x), packed, bias, slope, shuffle, out)
    return out


def refusal(call: Conv3x3Call) -> str | None:
    """One sentence why kernels for evaluation on the CPU cannot serve a call."""
    if (reason := evaluates_on(call.device, "cpu", gradient=call.gradient)) is not None:
        return reason
    if call.dtype not in (torch.float32, torch.bfloat16) or call.autocast:
        return "it is for float32 and bfloat16 alone, and not for autocast"
    if recording():
        return "a graph that is compiled or exported fuses PyTorch's own operators"
    return None


def _refusal(call: Conv3x3Call) -> str | None:
    """As for evaluation, but that there is a backward pass in float32."""
    return refusal(call._replace(gradient=call.gradient and call.dtype != torch.float32))


def _drawback(call: Conv3x3Call) -> str | None:
    if call.channels > MOST_CHANNELS and call.dtype == torch.bfloat16 and multiplies_matrices():
        return f"with over {MOST_CHANNELS} channels, PyTorch's convolution multiplies matrices (AMX) as well"
    return None


def _missing(call: Conv3x3Call) -> str | None:
    matrices = call.dtype == torch.bfloat16 and multiplies_matrices()
    return build.cpu_extension("conv3x3_bf16" if matrices else "conv3x3")


@functools.cache
def multiplies_matrices() -> bool:
    """Whether the CPU has instructions for products of matrices of bfloat16 (AMX)."""
    asks = getattr(torch.cpu, "_is_amx_tile_supported", None)  # newer than torch 2.5, and no public name
    return bool(asks is not None and asks())


def examples() -> Mapping[str, Conv3x3Call]:
    """Calls for :func:`ops.explain`."""
    return {"cpu, evaluation": Conv3x3Call("cpu"), "cpu, training": Conv3x3Call("cpu", gradient=True)}


CONV3X3: Operator[Conv3x3Call, Callable[[Conv3x3Arguments], Tensor]] = Operator(
    name="conv3x3",
    backends=(
        Backend(
            NATIVE,
            native_conv3x3,
            refusal=_refusal,
            merit="a compiled kernel of this project: a quarter of the multiplications, and one pass over the map",
            drawback=_drawback,
            missing=_missing,
        ),
        Backend(
            REFERENCE,
            reference_conv3x3,
            refusal=lambda call: None,
            merit="PyTorch's convolution, which serves every call",
            shortfall="slower: it multiplies four times as often, and the activation is a pass of its own",
        ),
    ),
    examples=examples,
)


def _flops(sizes: Any) -> int:
    """Of a direct sum, as for PyTorch's convolution."""
    B, _, H, W = sizes.out
    return int(2 * 9 * B * sizes.x[1] * sizes.out[1] * H * W)  # the shuffle moves channels to pixels


register("conv3x3_out", TransformedArguments, "()", fake=lambda arguments: None, flops=_flops)
register("conv3x3_matrices_out", MatricesArguments, "()", fake=lambda arguments: None, flops=_flops)


def _fake_matrices(arguments: PackArguments) -> Tensor:
    K, C = arguments.weight.shape[:2]
    return arguments.weight.new_empty(9, -(-C // 32) * 16, -(-K // 16) * 16, dtype=torch.int32)


register("conv3x3_matrices", PackArguments, "Tensor", fake=_fake_matrices)
