"""Filtering of batches: each image by a kernel of its own, and sharpening.

Shapes: B images, C channels, n odd side of a kernel.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

from ops.pixels.reflect import reflect

USM_SIDE, USM_WEIGHT, USM_THRESHOLD = 51, 0.5, 10.0


def filter2d(images: Tensor, kernels: Tensor) -> Tensor:
    """Correlate images with kernels; borders are mirrored without repeating the edge, as often as the kernel needs.

    Args:
        images: float [B, C, H, W].
        kernels: float [B, n, n], one for each image, or [1, n, n] for all.

    Returns:
        [B, C, H, W].
    """
    B, C, H, W = images.shape
    side = kernels.shape[-1]
    around = _mirrored(images, side // 2)
    weights = kernels.to(images.dtype).expand(B, side, side)
    # One group for each channel of each image: what an image becomes does not depend on its neighbours.
    flat = around.reshape(1, B * C, *around.shape[-2:])
    result = functional.conv2d(flat, weights.repeat_interleave(C, 0)[:, None], groups=B * C)
    return result.view(B, C, H, W)


def usm_sharpen(images: Tensor) -> Tensor:
    """Sharpen where there is structure (unsharp mask): [B, C, H, W] in [0, 1] -> the same, a new tensor.

    What differs from its blurred version by more than 10 of 255 levels is moved by half of that difference away from
    it; the mask that says where is blurred too. Borders are mirrored, as often as the blur needs.
    """
    residual = images - _blurred(images)
    mask = (residual.abs() * 255 > USM_THRESHOLD).to(images.dtype)
    soft = _blurred(mask)
    sharp = (images + USM_WEIGHT * residual).clamp_(0, 1)
    return soft * sharp + (1 - soft) * images


def _blurred(images: Tensor) -> Tensor:
    """By a Gaussian of 51 x 51, whose rows and columns separate."""
    B, C, H, W = images.shape
    row = _gaussian_row(images.dtype, str(images.device))
    flat = _mirrored(images, USM_SIDE // 2).view(B * C, 1, H + USM_SIDE - 1, -1)
    return functional.conv2d(functional.conv2d(flat, row[None, None, None]), row[None, None, :, None]).view(B, C, H, W)


def _mirrored(images: Tensor, border: int) -> Tensor:
    """[B, C, H, W] with a border of mirror images, which may be wider than the image: [B, C, H + 2 b, W + 2 b]."""
    H, W = images.shape[-2:]
    if border < min(H, W):
        return functional.pad(images, [border] * 4, mode="reflect")
    return reflect(reflect(images, -2, H + 2 * border, border), -1, W + 2 * border, border)


@functools.lru_cache(maxsize=8)
def _gaussian_row(kind: torch.dtype, device: str) -> Tensor:
    sigma = 0.3 * ((USM_SIDE - 1) / 2 - 1) + 0.8  # OpenCV's rule for a side without a sigma
    offsets = torch.arange(USM_SIDE, dtype=torch.float64) - USM_SIDE // 2
    row = torch.exp(-(offsets**2) / (2 * sigma**2))
    with torch.inference_mode(False):
        return (row / row.sum()).to(device, kind)
