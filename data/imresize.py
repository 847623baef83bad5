"""How low-resolution images are made of high-resolution ones: by the rule of the benchmark sets' files."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from utils.imresize import Taps, along, imresize, taps_of

__all__ = ["Region", "downscale", "imresize", "mod_crop"]

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
    rows = _part(taps_of(height, 1 / scale, True, torch.float64, "cpu"), part.top, part.height)
    columns = _part(taps_of(width, 1 / scale, True, torch.float64, "cpu"), part.left, part.width)
    first_row, last_row = int(rows.source.min()), int(rows.source.max())
    first_column, last_column = int(columns.source.min()), int(columns.source.max())
    window = image[first_row : last_row + 1, first_column : last_column + 1].astype(np.float64)
    values = along(torch.from_numpy(window), 0, Taps(rows.source - first_row, rows.weight))
    values = along(values, 1, Taps(columns.source - first_column, columns.weight))
    return values.add_(0.5 + _TIE).floor_().clamp_(0, 255).to(torch.uint8).contiguous().numpy()


def _part(taps: Taps, start: int, length: int) -> Taps:
    return Taps(taps.source[start : start + length], taps.weight[start : start + length])
