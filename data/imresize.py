"""Bicubic resizing as MATLAB's ``imresize`` does it, the rule by which low-resolution test images are made.

Shapes: n input length of an axis, m output length, T taps (input pixels that one output pixel sees).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Image = TypeVar("Image", NDArray[Any], Tensor)

# Distance from x.5 that still counts as a tie. Sums of 8-bit values with the weights of a whole factor are multiples
# of 1e-9 or more apart (factors up to 7; 8 and 16 are exact), rounding errors are below 1e-12: whatever the order of
# summation, a tie is rounded up.
_TIE = 1e-10


class Region(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


class _Taps(NamedTuple):
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


def mod_crop(image: NDArray[Any], scale: int) -> NDArray[Any]:
    """The top-left part of ``image`` [H, W] or [H, W, C] whose sides are multiples of ``scale``; a view."""
    height, width = image.shape[:2]
    return image[: height - height % scale, : width - width % scale]


def downscale(image: NDArray[np.uint8], scale: int, region: Region | None = None) -> NDArray[np.uint8]:
    """The low-resolution image of an 8-bit image, as the files of the benchmark sets were made.

    Args:
        image: uint8 [H, W, C] or [H, W]; its sides must be multiples of ``scale``.
        scale: whole factor; 1 returns the image (or its region) as it is.
        region: compute only this part of the low-resolution image. The pixels are those of the whole image's result:
            what lies outside the region's own high-resolution pixels is taken into account.

    Returns:
        uint8 [H/scale, W/scale, C], rounded half up and clipped.
    """
    height, width = image.shape[:2]
    if scale < 1 or height % scale or width % scale or 0 in (height, width):
        raise ValueError(f"downscale: {height} x {width} pixels are no multiple of the scale {scale}; use mod_crop")
    part = region or Region(0, 0, height // scale, width // scale)
    if scale == 1:
        return image[part.top : part.top + part.height, part.left : part.left + part.width]
    rows = _part(_taps(height, 1 / scale, True, torch.float64, "cpu"), part.top, part.height)
    columns = _part(_taps(width, 1 / scale, True, torch.float64, "cpu"), part.left, part.width)
    first_row, last_row = int(rows.source.min()), int(rows.source.max())
    first_column, last_column = int(columns.source.min()), int(columns.source.max())
    window = image[first_row : last_row + 1, first_column : last_column + 1].astype(np.float64)
    values = _along(torch.from_numpy(window), 0, _Taps(rows.source - first_row, rows.weight))
    values = _along(values, 1, _Taps(columns.source - first_column, columns.weight))
    return values.add_(0.5 + _TIE).floor_().clamp_(0, 255).to(torch.uint8).contiguous().numpy()


def _resize(x: Tensor, scale: float, antialiasing: bool, *, rows: int, columns: int) -> Tensor:
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    result = x.to(kind)
    for axis in (rows, columns):  # rows first, as MATLAB does for equal factors
        result = _along(result, axis, _taps(x.shape[axis], scale, antialiasing, kind, str(x.device)))
    return result.to(x.dtype).contiguous()


def _along(x: Tensor, axis: int, taps: _Taps) -> Tensor:
    """Resize one axis of ``x`` from n to m pixels.

    Each output row is a weighted sum of input rows, which is what ``embedding_bag`` computes: in one pass, in the
    order of the taps, and out of reach of autocast and TensorFloat-32, which would lower a matrix product's precision.
    """
    moved = x.movedim(axis, 0)  # [n, ...]
    rows = moved.reshape(moved.shape[0], -1)
    result = functional.embedding_bag(taps.source, rows, per_sample_weights=taps.weight, mode="sum")
    return result.reshape(-1, *moved.shape[1:]).movedim(0, axis)


@functools.lru_cache(maxsize=256)
def _taps(n: int, scale: float, antialiasing: bool, kind: torch.dtype, device: str) -> _Taps:
    """The taps of an axis of ``n`` pixels; positions and weights are found in float64."""
    m = math.ceil(n * scale)
    shrink = scale if scale < 1 and antialiasing else 1.0
    width = 4 / shrink
    centre = np.arange(1, m + 1) / scale + 0.5 * (1 - 1 / scale)  # [m] in input pixels counted from 1
    offsets = np.arange(math.ceil(width) + 2)
    position = np.floor(centre - width / 2)[:, None] + offsets  # [m, T]
    weight = shrink * _cubic(shrink * (centre[:, None] - position))
    weight /= weight.sum(axis=1, keepdims=True)
    used = (weight != 0).any(axis=0)
    mirrored = (position[:, used].astype(np.int64) - 1) % (2 * n)  # ..3 2 1 | 1 2 3 .. n | n n-1 .., any distance away
    index = np.where(mirrored < n, mirrored, 2 * n - 1 - mirrored)
    with torch.inference_mode(False):  # cached: a later call may need gradients
        return _Taps(torch.from_numpy(index).to(device), torch.from_numpy(weight[:, used]).to(device, kind))


def _part(taps: _Taps, start: int, length: int) -> _Taps:
    return _Taps(taps.source[start : start + length], taps.weight[start : start + length])


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic convolution with a = -0.5 (Keys 1981)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _described(img: NDArray[Any] | Tensor) -> str:
    return f"{img.dtype} {list(img.shape)}"
