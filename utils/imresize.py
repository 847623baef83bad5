"""Bicubic resizing as MATLAB's ``imresize`` does it.

Shapes: n input length of an axis, m output length, T taps (input pixels that one output pixel sees).
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Image = TypeVar("Image", NDArray[Any], Tensor)
_STRIP = 128  # output rows that are made at once on the CPU: some MB between the passes for images of 2000 pixels


class Taps(NamedTuple):
    """What the output pixels of one axis are made of."""

    source: Tensor  # [m, T] int64: input pixels, mirrored into 0 .. n-1
    weight: Tensor  # [m, T] float: their shares; the sum over T is 1


def imresize(img: Image, scale: float, antialiasing: bool = True) -> Image:
    """Resize by ``scale``; the output has ``ceil(length * scale)`` pixels along each axis.

    Differentiable, on any device. float64 is computed in float64, everything else in float32.

    Args:
        img: numpy [H, W, C] or [H, W], or torch [B, C, H, W], [C, H, W] or [H, W]; floating point, usually in [0, 1].
        scale: output size / input size; below 1 it shrinks.
        antialiasing: widen the kernel when shrinking, so that every input pixel counts.

    Returns:
        The same kind, layout and type as ``img``, neither rounded nor clipped: bicubic overshoots a little.

    Raises:
        ValueError: ``img`` is not floating point, has other axes or no pixels, or ``scale`` is not positive.
    """
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"imresize: the scale must be a positive number, got {scale}")
    if isinstance(img, Tensor):
        if not img.is_floating_point() or not 2 <= img.ndim <= 4 or 0 in img.shape[-2:]:
            raise ValueError(f"imresize: expected a float tensor [B,C,H,W], [C,H,W] or [H,W], got {_described(img)}")
        return _resize(img, scale, antialiasing, rows=img.ndim - 2, columns=img.ndim - 1)
    if not np.issubdtype(img.dtype, np.floating) or not 2 <= img.ndim <= 3 or 0 in img.shape[:2]:
        raise ValueError(f"imresize: expected a float array [H,W,C] or [H,W], got {_described(img)}")
    result = _resize(torch.from_numpy(np.ascontiguousarray(img)), scale, antialiasing, rows=0, columns=1)
    return result.numpy()


def along(x: Tensor, axis: int, taps: Taps) -> Tensor:
    """Resize one axis of ``x`` from n to m pixels.

    Each output row is a weighted sum of input rows, which is what ``embedding_bag`` computes: in one pass, in the
    order of the taps, and out of reach of autocast and TensorFloat-32, which would lower a matrix product's precision.
    """
    moved = x.movedim(axis, 0)  # [n, ...]
    rows = moved.reshape(moved.shape[0], -1)
    result = functional.embedding_bag(taps.source, rows, per_sample_weights=taps.weight, mode="sum")
    return result.reshape(-1, *moved.shape[1:]).movedim(0, axis)


@functools.lru_cache(maxsize=256)
def taps_of(
    n: int,
    scale: float,
    antialiasing: bool,
    kind: torch.dtype,
    device: str,
    border: Literal["mirror", "repeat"] = "mirror",
) -> Taps:
    """The taps of an axis of ``n`` pixels; positions and weights are found in float64.

    What lies beyond the border is mirrored, or repeats the last pixel.
    """
    m = math.ceil(n * scale)
    shrink = scale if scale < 1 and antialiasing else 1.0
    width = 4 / shrink
    centre = np.arange(1, m + 1) / scale + 0.5 * (1 - 1 / scale)  # [m] in input pixels counted from 1
    offsets = np.arange(math.ceil(width) + 2)
    position = np.floor(centre - width / 2)[:, None] + offsets  # [m, T]
    weight = shrink * cubic(shrink * (centre[:, None] - position))
    weight /= weight.sum(axis=1, keepdims=True)
    used = (weight != 0).any(axis=0)
    index = position[:, used].astype(np.int64) - 1
    if border == "repeat":
        index = index.clip(0, n - 1)
    else:
        mirrored = index % (2 * n)  # ..3 2 1 | 1 2 3 .. n | n n-1 .., any distance away
        index = np.where(mirrored < n, mirrored, 2 * n - 1 - mirrored)
    with torch.inference_mode(False):  # cached: a later call may need gradients
        return Taps(torch.from_numpy(index).to(device), torch.from_numpy(weight[:, used]).to(device, kind))


def _resize(x: Tensor, scale: float, antialiasing: bool, *, rows: int, columns: int) -> Tensor:
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    by_row, by_column = (taps_of(x.shape[axis], scale, antialiasing, kind, str(x.device)) for axis in (rows, columns))
    values = x.to(kind)
    if len(by_row.source) <= _STRIP or x.device.type != "cpu" or torch.compiler.is_compiling():
        result = along(along(values, rows, by_row), columns, by_column)  # rows first, as MATLAB does for equal factors
    else:
        # Strips of the output one after another: what lies between the two passes stays in the cache.
        strips = zip(by_row.source.split(_STRIP), by_row.weight.split(_STRIP), strict=True)
        parts = []
        for source, weight in strips:
            first, last = int(source.min()), int(source.max())
            seen = values.narrow(rows, first, last - first + 1)
            parts.append(along(along(seen, rows, Taps(source - first, weight)), columns, by_column))
        result = torch.cat(parts, rows)
    return result.to(x.dtype).contiguous()


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic convolution with a = -0.5 (Keys 1981)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _described(img: NDArray[Any] | Tensor) -> str:
    return f"{img.dtype} {list(img.shape)}"
