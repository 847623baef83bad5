"""Images to another size: weighted sums of rows, then of columns.

Shapes: A images, H W pixels in and h w out, C channels; n input and m output length of an axis, T taps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ops import build
from ops.registration import register
from ops.registry import NATIVE, REFERENCE, Backend, Operator, evaluates_on, recording
from utils.devices import types_here
from utils.errors import InputError

Rounding = Literal["none", "last", "each"]

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


class ResampleArguments(NamedTuple):
    """The arguments of :func:`resample` as they travel."""

    x: Tensor  # [A, H, W, C]
    row_source: Tensor  # [h, T]
    row_weight: Tensor  # [h, T]
    column_source: Tensor  # [w, T]
    column_weight: Tensor  # [w, T]
    rounding: int  # 0, 1 after the columns, 2 after the rows too


class ResampleCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    gradient: bool = False
    dtype: torch.dtype = torch.float32


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
    return RESAMPLE.choose(call, backend).run(ResampleArguments(x, *rows, *columns, _ROUNDINGS[rounding]))


def round_levels(levels: Tensor) -> Tensor:
    """float64 levels around 0 .. 255 -> uint8, rounded half up and clipped."""
    return levels.add(0.5 + _TIE).floor_().clamp_(0, 255).to(torch.uint8)


def reference_resample(arguments: ResampleArguments) -> Tensor:
    """[A, h, w, C]: the rows, then the columns."""
    x, row_source, row_weight, *_ = arguments
    if len(row_source) <= _STRIP or x.device.type != "cpu" or recording():
        return _both(arguments)
    # Strips of the output one after another: what lies between the two passes stays in the cache.
    parts = []
    for source, weight in zip(row_source.split(_STRIP), row_weight.split(_STRIP), strict=True):
        first, last = int(source.min()), int(source.max())
        seen = x.narrow(1, first, last - first + 1)
        parts.append(_both(arguments._replace(x=seen, row_source=source - first, row_weight=weight)))
    return torch.cat(parts, 1)


def _both(arguments: ResampleArguments) -> Tensor:
    x, row_source, row_weight, column_source, column_weight, rounding = arguments
    between = _along(x.to(row_weight.dtype), 1, Taps(row_source, row_weight)).to(column_weight.dtype)
    if rounding == _ROUNDINGS["each"]:
        between = round_levels(between).to(torch.float64)
    result = _along(between, 2, Taps(column_source, column_weight))
    return result if rounding == _ROUNDINGS["none"] else round_levels(result)


def _along(x: Tensor, axis: int, taps: Taps) -> Tensor:
    """One axis of ``x`` from n to m pixels: what ``embedding_bag`` computes, in the order of the taps."""
    moved = x.movedim(axis, 0)  # [n, ...]
    lines = moved.reshape(moved.shape[0], -1)
    result = functional.embedding_bag(taps.source, lines, per_sample_weights=taps.weight, mode="sum")
    return result.reshape(-1, *moved.shape[1:]).movedim(0, axis)


def native_resample(arguments: ResampleArguments) -> Tensor:
    """[A, h, w, C], by ops/csrc/resample_cpu.cpp."""
    out: Tensor = torch.ops.focalsr.resample(*arguments)
    return out


def _refusal(call: ResampleCall) -> str | None:
    if (reason := evaluates_on(call.device, "cpu", gradient=call.gradient)) is not None:
        return reason
    if call.dtype not in (torch.uint8, torch.float32, torch.float64):
        return f"its kernel knows no {call.dtype}"
    if recording():
        return "a graph that is compiled or exported keeps to PyTorch's own operators"
    return None


def _examples() -> Mapping[str, ResampleCall]:
    devices = types_here()
    return {device: ResampleCall(device) for device in devices}


RESAMPLE: Operator[ResampleCall, Callable[[ResampleArguments], Tensor]] = Operator(
    name="resample",
    backends=(
        Backend(
            NATIVE,
            native_resample,
            refusal=_refusal,
            merit="a compiled kernel of this project: a tile of the image at a time, in the cache",
            missing=lambda call: build.cpu_extension("resample"),
        ),
        Backend(
            REFERENCE,
            reference_resample,
            refusal=lambda call: None,
            merit="PyTorch's operators, which serve every call",
            shortfall="slower: the image between the passes is written and read",
        ),
    ),
    examples=_examples,
)


def _fake(arguments: ResampleArguments) -> Tensor:
    x, row_source, _, column_source, column_weight, rounding = arguments
    size = (x.shape[0], row_source.shape[0], column_source.shape[0], x.shape[3])
    return x.new_empty(size, dtype=torch.uint8 if rounding else column_weight.dtype)


def _flops(sizes: Any) -> int:
    images, _, width, channels = sizes.x
    (height, row_taps), (columns, column_taps) = sizes.row_source, sizes.column_source
    return int(2 * images * height * channels * (width * row_taps + columns * column_taps))


register("resample", ResampleArguments, "Tensor", fake=_fake, flops=_flops)
