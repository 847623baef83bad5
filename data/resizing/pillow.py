"""Bicubic downscaling as the Pillow library does it on 8-bit images, value for value, without that library.

Kernel: cubic convolution with a = -0.5, widened by the scale; taps outside of the image are dropped and the others
divided by their sum. Weights are fixed-point numbers; the columns are resized first, rounded to 8 bits, then the rows
(Pillow itself takes the rows first for images more than twice as high as wide).

Shapes: n input length of an axis, m output length, T taps.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from ops import resample
from ops.pixels.imresize import cubic
from ops.pixels.resample import Taps

_FRACTION = float(1 << 22)  # weights are whole multiples of its inverse: 32 bits less 8 for the pixel, 2 for overshoot


def pil_bicubic(images: Tensor, scale: int) -> Tensor:
    """Downscale 8-bit images by a whole factor; the same values on every device.

    Args:
        images: uint8 [..., H, W]; sides are multiples of ``scale``.
        scale: whole factor.

    Returns:
        uint8 [..., H / scale, W / scale].

    Raises:
        ValueError: the images are not 8 bit, or their sides no multiples of ``scale``.
    """
    height, width = images.shape[-2:]
    if images.dtype != torch.uint8 or height % scale or width % scale or 0 in (height, width):
        raise ValueError(
            f"pil_bicubic: expected uint8 images whose sides are multiples of {scale}, got {images.dtype} "
            f"{list(images.shape)}"
        )
    return pil_bicubic_to(images, (height // scale, width // scale))


def pil_bicubic_to(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Downscale 8-bit images [..., H, W] to a size that is not larger: [..., *size]."""
    height, width = images.shape[-2:]
    device = str(images.device)
    # Whole numbers of 2^-22 times 8 bits: float64 holds every product and sum exactly.
    x = images.reshape(-1, height, width, 1)
    x = resample(x, _same(height, device), _taps(width, size[1], device), "last")
    x = resample(x, _taps(height, size[0], device), _same(size[1], device), "last")
    return x.reshape(*images.shape[:-2], *size)


@functools.lru_cache(maxsize=256)  # any-scale training draws about as many sizes
def _same(n: int, device: str) -> Taps:
    """An axis that stays as it is."""
    source = torch.arange(n, device=device)[:, None]
    return Taps(source, torch.ones_like(source, dtype=torch.float64))


@functools.lru_cache(maxsize=256)
def _taps(n: int, m: int, device: str) -> Taps:
    scale = n / m
    centre = (np.arange(m) + 0.5) * scale  # [m] in input pixels, pixel j covering j .. j + 1
    support = 2.0 * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), n)
    places = first[:, None] + np.arange(int((last - first).max()))  # [m, T]
    weight = np.where(places < last[:, None], cubic((places - centre[:, None] + 0.5) / scale), 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    fixed = np.trunc(weight * _FRACTION + np.where(weight < 0, -0.5, 0.5)) / _FRACTION
    with torch.inference_mode(False):
        return Taps(torch.from_numpy(np.minimum(places, n - 1)).to(device), torch.from_numpy(fixed).to(device))
