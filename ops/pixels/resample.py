"""Images to another size: weighted sums of rows, then of columns.

Shapes: A images, H W pixels in and h w out, C channels; n input and m output length of an axis, T taps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula

from ops import build
from ops.registry import Backend, Operator, exporting
from utils.errors import InputError

Rounding = Literal["none", "last", "each"]

torch.library.define(
    "focalsr::resample",
    "(Tensor x, Tensor row_source, Tensor row_weight, Tensor column_source, Tensor column_weight, int rounding)"
    " -> Tensor",
)

# Distance from x.5 that still counts as a tie. Sums of 8-bit values with the weights of a whole factor are multiples
# of 1e-9 or more apart (factors up to 7; 8 and 16 are exact), rounding errors are below 1e-12: whatever the order of
# summation, a tie is rounded up.
_TIE = 1e-10
_STRIP = 128  # output rows that the reference makes at once: some MB between the passes for images of 2000 pixels
_ROUNDINGS: dict[Rounding, int] = {"none": 0, "last": 1, "each": 2}


class Taps(NamedTuple):
    """What the output pixels of one axis are made of."""

    source: Tensor  # [m, T] int64: input pixels in 0 .. n-1
    weight: Tensor  # [m, T] float32 or float64: their shares

    def part(self, start: int, length: int) -> Taps:
        """Those of ``length`` output pixels from ``start`` on."""
        return Taps(self.source[start : start + length], self.weight[start : start + length])


def resample(x: Tensor, rows: Taps, columns: Taps, rounding: Rounding = "none", backend: str = "auto") -> Tensor:
    """Each output row is a weighted sum of input rows, then each output column one of the columns of the result.

    The sums of an axis are of the type of its weights, out of reach of autocast and TensorFloat-32, and in the order of
    the taps. Differentiable in ``x`` where nothing is rounded, on any device.

    Args:
        x: [A, H, W, C], 8 bit or floating point.
        rows: of h output rows, on the device of ``x``.
        columns: of w output columns; weights no narrower than those of the rows, float64 where something is rounded.
        rounding: "last" rounds the results half up to 8 bits, 0 .. 255; "each" does so after each of the two passes.
        backend: "auto", "native" or "reference" (see :func:`ops.explain`).

    Returns:
        [A, h, w, C], of the type of the columns' weights, or uint8 where it is rounded.

    Raises:
        InputError: shapes or types do not fit, or the chosen backend cannot serve this call.
    """
    if x.ndim != 4 or (rounding != "none" and columns.weight.dtype != torch.float64):
        raise InputError(
            f"resample: x {list(x.shape)}, weights of columns in {columns.weight.dtype}, rounding {rounding}; expected "
            "[A, H, W, C], and float64 where something is rounded"
        )
    call = ResampleCall(
        device=x.device.type,
        gradient=torch.is_grad_enabled() and (x.requires_grad or rows.weight.requires_grad),
        dtype=x.dtype,
    )
    return RESAMPLE.choose(call, backend).run(x, rows, columns, rounding)


class ResampleCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    gradient: bool = False
    dtype: torch.dtype = torch.float32


def round_levels(levels: Tensor) -> Tensor:
    """float64 levels around 0 .. 255 -> uint8, rounded half up and clipped."""
    return levels.add(0.5 + _TIE).floor_().clamp_(0, 255).to(torch.uint8)


def _reference(x: Tensor, rows: Taps, columns: Taps, rounding: Rounding) -> Tensor:
    if len(rows.source) <= _STRIP or x.device.type != "cpu" or torch.compiler.is_compiling():
        return _both(x, rows, columns, rounding)
    # Strips of the output one after another: what lies between the two passes stays in the cache.
    parts = []
    for source, weight in zip(rows.source.split(_STRIP), rows.weight.split(_STRIP), strict=True):
        first, last = int(source.min()), int(source.max())
        seen = x.narrow(1, first, last - first + 1)
        parts.append(_both(seen, Taps(source - first, weight), columns, rounding))
    return torch.cat(parts, 1)


def _both(x: Tensor, rows: Taps, columns: Taps, rounding: Rounding) -> Tensor:
    between = _along(x.to(rows.weight.dtype), 1, rows).to(columns.weight.dtype)
    if rounding == "each":
        between = round_levels(between).to(torch.float64)
    result = _along(between, 2, columns)
    return result if rounding == "none" else round_levels(result)


def _along(x: Tensor, axis: int, taps: Taps) -> Tensor:
    """One axis of ``x`` from n to m pixels: what ``embedding_bag`` computes, in the order of the taps."""
    moved = x.movedim(axis, 0)  # [n, ...]
    lines = moved.reshape(moved.shape[0], -1)
    result = functional.embedding_bag(taps.source, lines, per_sample_weights=taps.weight, mode="sum")
    return result.reshape(-1, *moved.shape[1:]).movedim(0, axis)


def _native(x: Tensor, rows: Taps, columns: Taps, rounding: Rounding) -> Tensor:
    out: Tensor = torch.ops.focalsr.resample(x, *rows, *columns, _ROUNDINGS[rounding])
    return out


def _refusal(call: ResampleCall) -> str | None:
    if call.device != "cpu":
        return f"its kernel is for the CPU, and the tensors are on {call.device}"
    if call.gradient:
        return "it has no backward pass, and a gradient is wanted"
    if call.dtype not in (torch.uint8, torch.float32, torch.float64):
        return f"its kernel knows no {call.dtype}"
    if exporting() or torch.compiler.is_compiling():
        return "a graph that is compiled or exported keeps to PyTorch's own operators"
    return None


def _examples() -> Mapping[str, ResampleCall]:
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return {device: ResampleCall(device) for device in devices}


RESAMPLE: Operator[ResampleCall, Callable[[Tensor, Taps, Taps, Rounding], Tensor]] = Operator(
    name="resample",
    backends=(
        Backend(
            "native",
            _native,
            refusal=_refusal,
            remark="a compiled kernel of this project; a tile of the image at a time, in the cache",
            missing=lambda call: build.cpu_extension("resample"),
        ),
        Backend(
            "reference",
            _reference,
            refusal=lambda call: None,
            remark="slower: the image between the passes is written and read",
        ),
    ),
    examples=_examples,
)


def _fake(
    x: Tensor, row_source: Tensor, row_weight: Tensor, column_source: Tensor, column_weight: Tensor, rounding: int
) -> Tensor:
    size = (x.shape[0], row_source.shape[0], column_source.shape[0], x.shape[3])
    return x.new_empty(size, dtype=torch.uint8 if rounding else column_weight.dtype)


def _flops(x: torch.Size, row_source: torch.Size, _: Any, column_source: torch.Size, *args: Any, **kwargs: Any) -> int:
    """Two for a multiplication and an addition."""
    between = x[0] * row_source[0] * x[2] * x[3]
    return 2 * (between * row_source[1] + x[0] * row_source[0] * column_source[0] * x[3] * column_source[1])


torch.library.register_fake("focalsr::resample", _fake)
register_flop_formula(torch.ops.focalsr.resample)(_flops)
