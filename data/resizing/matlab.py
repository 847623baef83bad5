"""How low-resolution images are made of high-resolution ones: by the rule of the benchmark sets' files."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops import imresize, resample
from ops.pixels.imresize import Border, taps_of
from ops.pixels.resample import Rounding, Taps
from utils.checked import check_choice

__all__ = [
    "MARGIN",
    "Region",
    "Rule",
    "downscale",
    "downscale_windows",
    "imresize",
    "mod_crop",
    "window",
]

Rule = Literal["double", "published"]
MARGIN = 2  # low-resolution pixels around a patch that making it from high-resolution ones looks at

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
    check_choice("downscale: rule", rule, Rule)
    height, width = image.shape[:2]
    if scale < 1 or height % scale or width % scale or 0 in (height, width):
        raise ValueError(f"downscale: {height} x {width} pixels are no multiple of the scale {scale}; use mod_crop")
    part = region or Region(0, 0, height // scale, width // scale)
    if scale == 1:
        return image[part.top : part.top + part.height, part.left : part.left + part.width]
    if rule == "double" and region is not None:
        return _downscaled(window(image, region, scale), scale, Region(MARGIN, MARGIN, *region[2:]), rule)
    return _downscaled(image, scale, part, rule)


def _downscaled(pixels: NDArray[np.uint8], scale: int, part: Region, rule: Rule) -> NDArray[np.uint8]:
    """[H, W, C] or [H, W] -> the part [h, w, C] or [h, w] of its low-resolution image."""
    height, width = pixels.shape[:2]
    kind = torch.float32 if scale in _EXACT else torch.float64
    border: Border = "repeat" if rule == "published" else "mirror"
    rows = _taps(height, scale, part.top, part.height, kind, border)
    columns = _taps(width, scale, part.left, part.width, torch.float64, border)
    values = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).reshape(1, height, width, -1)
    small: NDArray[np.uint8] = resample(values, rows, columns, "each" if rule == "published" else "last").numpy()
    return small.reshape(part.height, part.width, *pixels.shape[2:])


@functools.lru_cache(maxsize=256)
def _taps(
    n: int, scale: int, start: int, length: int, kind: torch.dtype, border: Border = "mirror", device: str = "cpu"
) -> Taps:
    """Of ``length`` low-resolution pixels from ``start`` on, of an axis of ``n`` high-resolution ones."""
    return taps_of(n, 1 / scale, True, kind, device, border).part(start, length)


def window(image: NDArray[Any], region: Region, scale: int, margin: int = MARGIN) -> NDArray[Any]:
    """The high-resolution pixels that the low-resolution pixels of ``region`` see.

    Args:
        image: [H, W, C]; its sides are multiples of ``scale``.
        region: low-resolution pixels of the image.
        scale: whole factor.
        margin: m, low-resolution pixels around the region whose pixels are seen, too.

    Returns:
        [(h + 2 m) scale, (w + 2 m) scale, C] for a region of h x w, mirrored at the borders of the image as
        ``imresize`` does; a view where nothing is mirrored.
    """
    top, left = (region.top - margin) * scale, (region.left - margin) * scale
    bottom, right = top + (region.height + 2 * margin) * scale, left + (region.width + 2 * margin) * scale
    height, width = image.shape[:2]
    if top >= 0 and left >= 0 and bottom <= height and right <= width:
        return image[top:bottom, left:right]
    seen = image[max(top, 0) : bottom, max(left, 0) : right]
    above, below, before, behind = (max(pixels, 0) for pixels in (-top, bottom - height, -left, right - width))
    return cast("NDArray[Any]", cv2.copyMakeBorder(seen, above, below, before, behind, cv2.BORDER_REFLECT))


def downscale_windows(windows: Tensor, scale: int, rounding: Rounding = "none") -> Tensor:
    """Downscale what :func:`window` cut, on any device.

    The pixels do not depend on the device, nor on whether one window or a batch of them is computed: in float64,
    rounding errors vanish in the rounding that follows.

    Args:
        windows: [..., (h + 4) scale, (w + 4) scale], 8 bit or floating point.
        scale: whole factor.
        rounding: "last": to 8 bits, half up; ``windows`` are in 0 .. 255 then.

    Returns:
        [..., h, w] in the unit of ``windows``, float64 and neither rounded nor clipped, or uint8.
    """
    height, width = windows.shape[-2:]
    by_row = torch.float32 if windows.dtype == torch.uint8 and scale in _EXACT else torch.float64
    rows, columns = (
        _taps(side, scale, MARGIN, side // scale - 2 * MARGIN, kind, device=str(windows.device))
        for side, kind in ((height, by_row), (width, torch.float64))
    )
    small = resample(windows.reshape(-1, height, width, 1), rows, columns, rounding)
    return small.reshape(*windows.shape[:-2], *small.shape[1:3])
