"""How low-resolution images are made of high-resolution ones: by the rule of the benchmark sets' files."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.imresize import Taps, along, imresize, taps_of

__all__ = ["Region", "Rule", "downscale", "downscale_windows", "imresize", "mod_crop", "round_levels", "window"]

Rule = Literal["double", "published"]

# Distance from x.5 that still counts as a tie. Sums of 8-bit values with the weights of a whole factor are multiples
# of 1e-9 or more apart (factors up to 7; 8 and 16 are exact), rounding errors are below 1e-12: whatever the order of
# summation, a tie is rounded up.
_TIE = 1e-10
# Weights of these scales are whole multiples of 2^-8 and 2^-12: float32 holds sums with 8-bit values without rounding.
_EXACT = (2, 4)


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


def downscale(
    image: NDArray[np.uint8], scale: int, region: Region | None = None, rule: Rule = "double"
) -> NDArray[np.uint8]:
    """The low-resolution image of an 8-bit image, as the files of the benchmark sets were made.

    Args:
        image: uint8 [H, W, C] or [H, W]; its sides must be multiples of ``scale``.
        scale: whole factor; 1 returns the image (or its region) as it is.
        region: compute only this part of the low-resolution image. The pixels are those of the whole image's result:
            what lies outside the region's own high-resolution pixels is taken into account.
        rule: "double": as MATLAB's present function does it in double precision, mirrored at the borders, rounded once
            at the end. "published": as the low-resolution files of the benchmark sets were made, value for value: the
            last pixel is repeated beyond the borders, and the rows are rounded to 8 bits before the columns follow.

    Returns:
        uint8 [H/scale, W/scale, C], rounded half up and clipped.
    """
    height, width = image.shape[:2]
    if scale < 1 or height % scale or width % scale or 0 in (height, width):
        raise ValueError(f"downscale: {height} x {width} pixels are no multiple of the scale {scale}; use mod_crop")
    part = region or Region(0, 0, height // scale, width // scale)
    if scale == 1:
        return image[part.top : part.top + part.height, part.left : part.left + part.width]
    kind = torch.float32 if scale in _EXACT else torch.float64
    border: Literal["mirror", "repeat"] = "repeat" if rule == "published" else "mirror"
    rows = _part(taps_of(height, 1 / scale, True, kind, "cpu", border), part.top, part.height)
    columns = _part(taps_of(width, 1 / scale, True, torch.float64, "cpu", border), part.left, part.width)
    first_row, last_row = int(rows.source.min()), int(rows.source.max())
    first_column, last_column = int(columns.source.min()), int(columns.source.max())
    seen = image[first_row : last_row + 1, first_column : last_column + 1]
    values = torch.from_numpy(seen.astype(np.float32 if scale in _EXACT else np.float64))
    values = along(values, 0, Taps(rows.source - first_row, rows.weight)).to(torch.float64)
    if rule == "published":
        values = round_levels(values).to(torch.float64)
    values = along(values, 1, Taps(columns.source - first_column, columns.weight))
    return round_levels(values).contiguous().numpy()


def window(image: NDArray[Any], region: Region, scale: int) -> NDArray[Any]:
    """The high-resolution pixels that the low-resolution pixels of ``region`` see.

    Args:
        image: [H, W, C]; its sides are multiples of ``scale``.
        region: low-resolution pixels of the image.
        scale: whole factor.

    Returns:
        [(h + 4) scale, (w + 4) scale, C] for a region of h x w: its own pixels and those of two low-resolution pixels
        more on each side, mirrored at the borders of the image as ``imresize`` does; a view where nothing is mirrored.
    """
    rows = _reach(region.top, region.height, scale, image.shape[0])
    columns = _reach(region.left, region.width, scale, image.shape[1])
    part = image[rows] if isinstance(rows, slice) else image.take(rows, axis=0)
    return part[:, columns] if isinstance(columns, slice) else part.take(columns, axis=1)


def downscale_windows(windows: Tensor, scale: int) -> Tensor:
    """Downscale what :func:`window` cut, on any device.

    In float64, whose rounding errors vanish in the rounding that follows: the pixels do not depend on the device, nor
    on whether one window or a batch of them is computed.

    Args:
        windows: [..., (h + 4) scale, (w + 4) scale], 8 bit or floating point.
        scale: whole factor.

    Returns:
        float64 [..., h, w] in the unit of ``windows``, neither rounded nor clipped.
    """
    values = windows.to(torch.float64)
    for axis in (values.ndim - 2, values.ndim - 1):
        length = values.shape[axis]
        taps = taps_of(length, 1 / scale, True, torch.float64, str(values.device))
        values = along(values, axis, _part(taps, 2, length // scale - 4))
    return values


def round_levels(levels: Tensor) -> Tensor:
    """float64 levels around 0 .. 255 -> uint8, rounded half up and clipped."""
    return levels.add(0.5 + _TIE).floor_().clamp_(0, 255).to(torch.uint8)


def _reach(start: int, length: int, scale: int, limit: int) -> slice | NDArray[np.int64]:
    first, last = (start - 2) * scale, (start + length + 2) * scale
    if first >= 0 and last <= limit:
        return slice(first, last)
    places = np.arange(first, last) % (2 * limit)
    return np.where(places < limit, places, 2 * limit - 1 - places)


def _part(taps: Taps, start: int, length: int) -> Taps:
    return Taps(taps.source[start : start + length], taps.weight[start : start + length])
