"""RGB and YCbCr by ITU-R BT.601 as MATLAB's ``rgb2ycbcr`` has it: Y in 16 .. 235, Cb and Cr in 16 .. 240.

Shapes: H W pixels; colours in the last dimension, in the order R G B and Y Cb Cr.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ops.pixels.similarity import has_similarity_kernels, luma_of_levels

Image = npt.NDArray[Any]

# Rows R, G, B in [0, 1] -> columns Y, Cb, Cr.
_FORWARD = np.array([[65.481, -37.797, 112.0], [128.553, -74.203, -93.786], [24.966, 112.0, -18.214]])
LUMA = np.ascontiguousarray(_FORWARD[:, 0])
"""Weights of R, G, B in [0, 1] in Y - 16."""
_OFFSET = np.array([16.0, 128.0, 128.0])
# Rows Y, Cb, Cr in [0, 255] -> columns R, G, B in [0, 255]. Six digits, as published: a round trip is not exact.
_INVERSE = 255.0 * np.array(
    [[0.00456621, 0.00456621, 0.00456621], [0.0, -0.00153632, 0.00791071], [0.00625893, -0.00318811, 0.0]]
)
_INVERSE_OFFSET = np.array([-222.921, 135.576, -276.836])


def luma(img: Image) -> Image:
    """The Y that PSNR and SSIM are measured on: [H, W, 3] in [0, 255] -> float32 [H, W] in 16 .. 235, not rounded.

    The steps, and where they round to float32, are those behind the published numbers.
    """
    H, W = img.shape[:2]
    y = np.empty((H, W), np.float32)
    for rows in strips(H, W):
        unit = _parts_of_levels(img[rows]) if img.dtype == np.uint8 else _parts(img[rows]) @ LUMA
        unit += _OFFSET[0]
        unit /= 255.0  # in float64
        np.multiply(unit.astype(np.float32), np.float32(255), out=y[rows])
    return y


def fast_luma(img: Image) -> Image:
    """:func:`luma`, by a compiled kernel where there is one: for many images, as compiling it takes seconds."""
    dense = img.dtype == np.uint8 and img.strides[1:] == (3, 1) and img.strides[0] >= 0 and img.flags.writeable
    if not dense or not has_similarity_kernels():
        return luma(img)
    y: Image = luma_of_levels(torch.from_numpy(img), torch.from_numpy(_tables()), float(_OFFSET[0])).numpy()
    return y


def _parts(img: Image) -> Image:
    return img.astype(np.float32) / np.float32(255)


def _parts_of_levels(img: Image) -> Image:
    """The weighted sum of the channels of 8-bit images, from tables of what each level adds: a third of the time."""
    tables = _tables()
    total: Image = tables[0][img[..., 0]]
    total += tables[1][img[..., 1]]
    total += tables[2][img[..., 2]]
    return total


@functools.cache
def _tables() -> Image:
    """What the levels of R, G and B add to Y - 16, float64 [3, 256]."""
    levels: Image = _parts(np.arange(256)).astype(np.float64)
    return LUMA[:, None] * levels


def luma_pt(img: Tensor) -> Tensor:
    """:func:`luma` of a tensor on its device, with the same steps: uint8 [H, W, 3] -> float32 [H, W]."""
    # By tensors: CUDA turns division by a number into multiplication with its rounded inverse.
    levels = torch.full((), 255.0, device=img.device)
    rgb = (img.to(torch.float32) / levels).double()
    r, g, b = (float(weight) for weight in LUMA)
    unit = (r * rgb[..., 0] + g * rgb[..., 1] + b * rgb[..., 2] + float(_OFFSET[0])) / levels.double()
    return unit.to(torch.float32) * levels


def rgb_to_ycbcr(img: Image, y_only: bool = False) -> Image:
    """[H, W, 3] uint8, or float in [0, 1] -> the same type, [H, W, 3] or with ``y_only`` [H, W].

    uint8 results are rounded; floats hold Y, Cb, Cr divided by 255.
    """
    matrix, offset = (_FORWARD[:, 0], _OFFSET[0]) if y_only else (_FORWARD, _OFFSET)
    return _like(_unit(img) @ matrix + offset, img)


def ycbcr_to_rgb(img: Image) -> Image:
    """[H, W, 3] uint8, or float in [0, 1] -> the same type and shape.

    uint8 results are rounded and clipped to 0 .. 255; floats are left as they come.
    """
    return _like(_unit(img) * 255.0 @ _INVERSE + _INVERSE_OFFSET, img)


def strips(H: int, W: int) -> list[slice]:
    """Bands of rows that cover an image of H x W, small enough for their temporary arrays to stay in the cache.

    Measured on 500 x 500: SSIM takes 7 ms instead of 23 ms, most of which went into fresh memory pages.
    """
    rows = max(32, 2**15 // max(W, 1))
    return [slice(start, min(start + rows, H)) for start in range(0, H, rows)]


def _unit(img: Image) -> Image:
    """uint8 or float -> float64 in [0, 1], by way of float32 as the published conversion."""
    if img.ndim != 3 or img.shape[-1] != 3:
        raise ValueError(f"expected an image [H, W, 3], got shape {list(img.shape)}")
    if img.dtype == np.uint8:
        return (img.astype(np.float32) / np.float32(255)).astype(np.float64)
    if np.issubdtype(img.dtype, np.floating):
        return img.astype(np.float64)
    raise ValueError(f"expected uint8 or floats in [0, 1], got {img.dtype}")


def _like(values: Image, img: Image) -> Image:
    """[0, 255] in float64 -> the type of ``img`` and its range."""
    if img.dtype == np.uint8:
        return values.round().clip(0, 255).astype(np.uint8)
    return (values / 255.0).astype(img.dtype)
