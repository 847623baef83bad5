"""A linear layer of rows with what lies around it in a transformer: the order of rows, a normalisation, sums.

Shapes: R rows of x, M rows of the result, K channels in, C channels out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ops import build
from ops.autocast import autocast_is_on
from ops.mlp.linear import linear
from ops.registration import register
from ops.registry import NATIVE, REFERENCE, Backend, Operator, evaluates_on, recording
from utils.errors import InputError

LARGEST = 512
"""Channels of the compiled kernel: transposed weights of more do not stay in the cache."""


class LinearRowsArguments(NamedTuple):
    """The arguments of :func:`linear_rows` as they travel."""

    x: Tensor  # [R, K]
    weight: Tensor  # [C, K]
    bias: Tensor | None  # [C]
    order: Tensor | None  # [M] int64
    norm_weight: Tensor | None  # [K]
    norm_bias: Tensor | None  # [K]
    eps: float
    added: Tensor | None  # [M, K]
    residual: Tensor | None  # [M, C]


class LinearRowsCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    dtype: torch.dtype | None = torch.float32
    channels: int = 64  # the larger of K and C
    gradient: bool = False
    autocast: bool = False


class RowNorm(NamedTuple):
    """A normalisation of the channels of a row, as ``torch.nn.LayerNorm``."""

    weight: Tensor  # [K]
    bias: Tensor  # [K]
    eps: float


def linear_rows(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    order: Tensor | None = None,
    norm: RowNorm | None = None,
    added: Tensor | None = None,
    residual: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """``residual + (norm(x)[order] + added) weight^T + bias``, each of them where it is given.

    The compiled kernel, which serves evaluation on the CPU, does all of it for some rows while they are in the cache.

    Args:
        x: [R, K].
        weight: [C, K].
        bias: [C].
        order: [M] int64, which row of x each row is made of; without it row after row.
        norm: of the channels of a row.
        added: [M, K], to the rows before the product.
        residual: [M, C].
        backend: "auto", "native" or "reference" (see :func:`ops.explain`).

    Returns:
        [M, C].

    Raises:
        InputError: shapes do not fit, or the chosen backend cannot serve this call.
    """
    if x.ndim != 2 or weight.ndim != 2 or weight.shape[1] != x.shape[1]:
        raise InputError(
            f"linear_rows: x is {list(x.shape)} and the weight {list(weight.shape)}, expected [R, K] and [C, K]"
        )
    rows = x.shape[0] if order is None else order.shape[0]
    for name, tensor, channels in (("added", added, x.shape[1]), ("residual", residual, weight.shape[0])):
        if tensor is not None and tensor.shape != (rows, channels):
            raise InputError(f"linear_rows: {name} is {list(tensor.shape)}, expected {[rows, channels]}")
    norm_weight, norm_bias, eps = (None, None, 0.0) if norm is None else norm
    arguments = LinearRowsArguments(x, weight, bias, order, norm_weight, norm_bias, eps, added, residual)
    numbers = [t for t in arguments if isinstance(t, Tensor) and t is not order]
    return LINEAR_ROWS.choose(call_of_rows(*numbers), backend).run(arguments)


def call_of_rows(x: Tensor, weight: Tensor, *others: Tensor) -> LinearRowsCall:
    """What refusals look at, of all tensors of numbers that take part."""
    return LinearRowsCall(
        device=x.device.type,
        dtype=x.dtype if all(tensor.dtype == x.dtype for tensor in (weight, *others)) else None,
        channels=max(weight.shape),
        gradient=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, weight, *others)),
        autocast=autocast_is_on(x.device.type),
    )


def reference_linear_rows(arguments: LinearRowsArguments) -> Tensor:
    """[M, C], by PyTorch's layers."""
    x, weight, bias, order, norm_weight, norm_bias, eps, added, residual = arguments
    if norm_weight is not None:
        x = F.layer_norm(x, x.shape[1:], norm_weight, norm_bias, eps)
    if order is not None:
        x = x.index_select(0, order)
    if added is not None:
        x = x + added
    y = linear(x, weight, bias)
    return y if residual is None else residual + y


def native_linear_rows(arguments: LinearRowsArguments) -> Tensor:
    """[M, C], by ops/csrc/linear_rows_cpu.cpp."""
    out: Tensor = torch.ops.focalsr.linear_rows(*arguments)
    return out


def _refusal(call: LinearRowsCall) -> str | None:
    if (reason := evaluates_on(call.device, "cpu", gradient=call.gradient)) is not None:
        return reason
    if recording():
        return "a graph that is compiled or exported fuses PyTorch's own operators"
    if call.autocast or call.dtype not in (torch.float32, torch.float64):
        return "it serves float32 and float64"
    return None


def _drawback(call: LinearRowsCall) -> str | None:
    if call.channels > LARGEST:
        return f"oneDNN multiplies {call.channels} channels faster"
    return None


def _examples() -> Mapping[str, LinearRowsCall]:
    return {
        "cpu, evaluation": LinearRowsCall("cpu"),
        "cpu, training": LinearRowsCall("cpu", gradient=True),
    }


LINEAR_ROWS: Operator[LinearRowsCall, Callable[[LinearRowsArguments], Tensor]] = Operator(
    name="linear_rows",
    backends=(
        Backend(
            NATIVE,
            native_linear_rows,
            refusal=_refusal,
            drawback=_drawback,
            merit="a compiled kernel of this project: rows are gathered, normalised and multiplied while in the cache",
            missing=lambda call: build.cpu_extension("linear_rows"),
        ),
        Backend(
            REFERENCE,
            reference_linear_rows,
            refusal=lambda call: None,
            merit="PyTorch's layers and sums, which serve every call",
            shortfall="slower: every step is a pass over all rows",
        ),
    ),
    examples=_examples,
)


def _fake(arguments: LinearRowsArguments) -> Tensor:
    x, weight, order = arguments.x, arguments.weight, arguments.order
    return x.new_empty(x.shape[0] if order is None else order.shape[0], weight.shape[0])


def _flops(sizes: Any) -> int:
    """Of the product."""
    return int(2 * (sizes.order or sizes.x)[0] * sizes.x[1] * sizes.weight[0])


register("linear_rows", LinearRowsArguments, "Tensor", fake=_fake, flops=_flops)
