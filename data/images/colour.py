"""The colour of images as options ask for it: luminance, and each channel normalised.

Shapes: H W pixels; C is 3, or 1 for ``color: y``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data.dataset_options import DatasetOptions
from data.images.files import to_unit
from ops.cache import per_channel

_BT601 = (65.481, 128.553, 24.966)


def convert(pixels: Tensor, options: DatasetOptions) -> Tensor:
    """8 bit or in [0, 1], [..., 3, H, W] -> float32 [..., C, H, W]: luminance and normalised where asked for."""
    values = to_unit(pixels) if pixels.dtype == torch.uint8 else pixels.to(torch.float32)
    if options.color == "y":
        values = luminance(values)
    if options.mean is not None:
        values = values - per_channel(options.mean, values.dtype, values.device)
    if options.std is not None:
        values = values / per_channel(options.std, values.dtype, values.device)
    return values


def luminance(rgb: Tensor) -> Tensor:
    """Y of BT.601, 16/255 .. 235/255: [..., 3, H, W] in [0, 1] -> [..., 1, H, W]; in float64, as BasicSR does."""
    weights = per_channel(_BT601, torch.float64, rgb.device)
    y = (rgb.to(torch.float64) * weights).sum(dim=-3, keepdim=True) + 16
    return (y / 255).to(rgb.dtype)
