"""Bicubic resizing as MATLAB's ``imresize`` does it.

Shapes: n input length of an axis, m output length, T taps (input pixels that one output pixel sees).
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops.pixels.resample import Taps, resample
from utils.checked import check_choice

Image = TypeVar("Image", NDArray[Any], Tensor)
Border = Literal["mirror", "repeat"]


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
        planes = _resize(img.reshape(-1, *img.shape[-2:], 1), scale, antialiasing)
        return planes.reshape(*img.shape[:-2], *planes.shape[1:3])
    if not np.issubdtype(img.dtype, np.floating) or not 2 <= img.ndim <= 3 or 0 in img.shape[:2]:
        raise ValueError(f"imresize: expected a float array [H,W,C] or [H,W], got {_described(img)}")
    height, width = img.shape[:2]
    pixels = torch.from_numpy(np.require(img, requirements=["C", "W"]))
    result = _resize(pixels.reshape(1, height, width, -1), scale, antialiasing)
    return result.reshape(*result.shape[1:3], *img.shape[2:]).numpy()


@functools.lru_cache(maxsize=256)
def taps_of(
    n: int,
    scale: float,
    antialiasing: bool,
    kind: torch.dtype,
    device: str,
    border: Border = "mirror",
) -> Taps:
    """The taps of an axis of ``n`` pixels; positions and weights are found in float64.

    What lies beyond the border is mirrored, or repeats the last pixel.
    """
    check_choice("taps_of: border", border, Border)
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
        weight = np.ascontiguousarray(weight[:, used])
        return Taps(torch.from_numpy(index).to(device), torch.from_numpy(weight).to(device, kind))


def _resize(x: Tensor, scale: float, antialiasing: bool) -> Tensor:
    """[A, H, W, C] -> [A, h, w, C]."""
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows, columns = (taps_of(x.shape[axis], scale, antialiasing, kind, str(x.device)) for axis in (1, 2))
    return resample(x.to(kind), rows, columns).to(x.dtype).contiguous()  # rows first, as MATLAB does for equal factors


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic convolution with a = -0.5 (Keys 1981)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _described(img: NDArray[Any] | Tensor) -> str:
    return f"{img.dtype} {list(img.shape)}"
