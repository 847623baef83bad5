"""A linear layer with or without GELU behind it.

Shapes: any leading dimensions, K channels in, C channels out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ops.autocast import autocast_is_on
from ops.registry import REFERENCE, Backend, Operator, evaluates_on, recording
from utils.devices import CPU, native_precisions


class LinearArguments(NamedTuple):
    """The arguments of :func:`linear` as they travel."""

    x: Tensor  # [..., K]
    weight: Tensor  # [C, K]
    bias: Tensor | None  # [C]
    gelu: bool


class LinearCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    dtype: torch.dtype | None = torch.float32
    gradient: bool = False
    autocast: bool = False
    empty: bool = False


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False, backend: str = "auto"
) -> Tensor:
    """``x weight^T + bias``, and the exact GELU of that where it is asked for.

    Where no gradient is wanted, float32 on the CPU goes to oneDNN, which comes with torch, and so does bfloat16 on
    CPUs that multiply it: it adds the bias while the result is in the cache, and multiplies float32 faster than the
    library that torch asks for it on processors of some makers. In bfloat16 it takes the GELU too, in float32 as the
    sums are; in float32 PyTorch's pass over the result takes half of the time of oneDNN's GELU.

    Args:
        x: [..., K]. In float32 it meets weights of half precision in their type.
        weight: [C, K].
        bias: [C].
        gelu: whether GELU follows.
        backend: "auto", "onednn" or "reference" (see :func:`ops.explain`).

    Returns:
        [..., C].

    Raises:
        InputError: the chosen backend cannot serve this call.
    """
    if x.dtype == torch.float32 and weight.dtype.itemsize == 2 and not autocast_is_on(x.device.type):
        x = x.to(weight.dtype)
    tensors = (x, weight) if bias is None else (x, weight, bias)
    call = LinearCall(
        device=x.device.type,
        dtype=x.dtype if x.dtype == weight.dtype else None,
        gradient=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors),
        autocast=x.device.type == "cpu" and autocast_is_on("cpu"),
        empty=x.numel() == 0,
    )
    return LINEAR.choose(call, backend).run(LinearArguments(x, weight, bias, gelu))


def reference_linear(arguments: LinearArguments) -> Tensor:
    """[..., C], by PyTorch's layers."""
    x, weight, bias, gelu = arguments
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


def onednn_linear(arguments: LinearArguments) -> Tensor:
    """[..., C], by an operator of torch that its compiler uses."""
    x, weight, bias, gelu = arguments
    fused = gelu and x.dtype != torch.float32
    activation, formula = ("gelu", "none") if fused else ("none", "")
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], formula)
    return torch.ops.aten.gelu_(out) if gelu and not fused else out


def _onednn_flops(x: Sequence[int], weight: Sequence[int], *others: Any, **results: Any) -> int:
    return 2 * math.prod(x) * weight[0]


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_onednn_flops)


def _refusal(call: LinearCall) -> str | None:
    if (reason := evaluates_on(call.device, "cpu", gradient=call.gradient)) is not None:
        return reason
    if call.autocast or not (call.dtype == torch.float32 or (call.dtype == torch.bfloat16 and _multiplies_bf16())):
        return "it serves float32, and bfloat16 on CPUs that multiply it"
    if call.empty:
        return "there is nothing to multiply"
    if recording():
        return "a graph that is compiled or exported fuses PyTorch's own operators"
    return _missing()


def _multiplies_bf16() -> bool:
    return "bf16" in native_precisions(CPU)


def _missing() -> str | None:
    if not (torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()):
        return "torch is built without it, or it is switched off"
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this version of torch does not offer it"
    return None


def _examples() -> Mapping[str, LinearCall]:
    return {
        "cpu, evaluation": LinearCall("cpu"),
        "cpu, training": LinearCall("cpu", gradient=True),
    }


LINEAR: Operator[LinearCall, Callable[[LinearArguments], Tensor]] = Operator(
    name="linear",
    backends=(
        Backend(
            "onednn",
            onednn_linear,
            refusal=_refusal,
            merit="oneDNN adds the bias while the result is in the cache, and is given no other memory for its GELU",
        ),
        Backend(
            REFERENCE,
            reference_linear,
            refusal=lambda call: None,
            merit="PyTorch's linear layer and GELU, which serve every call",
            shortfall="slower: GELU has other memory, and the bias on some processors is a pass of its own",
        ),
    ),
    examples=_examples,
)
