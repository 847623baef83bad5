"""Resizing as PyTorch interpolates: to any size, without antialiasing, with half-pixel centres.

Shapes: B images, H W pixels.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Mode = Literal["area", "bilinear", "bicubic"]


def interpolate(
    images: Tensor, mode: Mode, *, factor: float | None = None, size: tuple[int, int] | None = None
) -> Tensor:
    """[B, C, H, W] resized by a factor or to a size; edges are repeated, and at least one pixel is left."""
    height, width = images.shape[-2:]
    if factor is not None and min(height, width) * factor < 1:
        size, factor = whole_size(height, width, factor), None
    return functional.interpolate(images, size=size, scale_factor=factor, mode=mode)


def whole_size(height: float, width: float, factor: float) -> tuple[int, int]:
    """Whole pixels of an image of this size that is resized: rounded down, at least one."""
    return max(1, int(height * factor)), max(1, int(width * factor))


def stretch(image: NDArray[Any], least: int) -> NDArray[np.float32]:
    """Each side of ``image`` [H, W, 3], float32, that is shorter than ``least`` is stretched to it, bilinearly."""
    height, width = image.shape[:2]
    tensor = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))[None]
    result: NDArray[np.float32] = interpolate(tensor, "bilinear", size=(max(height, least), max(width, least)))[
        0
    ].numpy()
    return result.transpose(1, 2, 0)
