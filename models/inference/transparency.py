"""Colour under transparent pixels, which nobody sees, but which a network would mix into the edge that everybody sees.

Shapes: H W pixels, C channels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from data.images.photo import Levels

# Below this opacity a colour counts in proportion to it: files that were stored multiplied by the opacity, and divided
# again, have rounded it away. What is lost of a colour that was exact is seen through this opacity: 4 levels at most.
_SURE = 16 / 255


def spread_colour(pixels: Levels, alpha: Levels) -> Levels:
    """The picture with the colour of what is opaque spread under what is transparent.

    Normalised convolution over a pyramid (push and pull): a transparent pixel takes the mean of the nearest colours,
    weighted by their opacity, so that the colour is smooth across the edge. Pixels of an opacity of 16 / 255 or more
    keep their colour to the last bit; below it, the two are mixed.

    Args:
        pixels: uint8 or uint16, [H, W, C]; colours are not multiplied by the opacity.
        alpha: opacity, [H, W, 1] of the same type.

    Returns:
        ``pixels`` themselves where the opacity is the same everywhere: no edge is seen.
    """
    if alpha.min() == alpha.max():
        return pixels
    top = np.float32(np.iinfo(pixels.dtype).max)
    opacity = np.divide(alpha[..., 0], top, dtype=np.float32)  # [H, W]
    colour = pixels.astype(np.float32)
    filled = np.empty_like(pixels)
    filled[...] = np.rint(_pulled(colour, opacity))
    np.copyto(filled, pixels, where=(opacity >= np.float32(_SURE))[..., None])
    return filled


def _pulled(colour: NDArray[np.float32], opacity: NDArray[np.float32]) -> NDArray[np.float32]:
    """[H, W, C] and [H, W] -> [H, W, C]: own colours where they are sure, else those of the surroundings."""
    h, w = opacity.shape
    if h == w == 1:
        return colour
    mass = _halved(opacity[..., None])
    means = _halved(colour * opacity[..., None])
    np.divide(means, mass, out=means, where=mass > 0)
    coarse = _pulled(means, mass[..., 0])
    double = cv2.resize(coarse, (2 * coarse.shape[1], 2 * coarse.shape[0]), interpolation=cv2.INTER_LINEAR)
    around = np.asarray(double, np.float32).reshape(*double.shape[:2], -1)[:h, :w]  # OpenCV drops a single channel
    mixed: NDArray[np.float32] = np.minimum(opacity / np.float32(_SURE), np.float32(1))[..., None] * (colour - around)
    mixed += around
    return mixed


def _halved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 x 2 pixels; beyond the edge are zeros."""
    even = np.pad(values, ((0, values.shape[0] % 2), (0, values.shape[1] % 2), (0, 0)))
    sums: NDArray[np.float32] = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    sums /= 4
    return sums
