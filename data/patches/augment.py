"""Random crops and flips of pairs: what is done is drawn first, then applied.

Shapes: images [H, W, C] as they are stored; s scale, p side of the low-resolution patch.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import cv2
import numpy as np

from data.images.files import Pixels
from data.resizing.matlab import Region

_FLIP_CODES = {(True, False): 1, (False, True): 0, (True, True): -1}  # OpenCV's


class Flips(NamedTuple):
    """Which of the three generators of the eight symmetries of a square are applied, in this order."""

    horizontal: bool
    vertical: bool
    transpose: bool


def draw_patch(height: int, width: int, side: int, stream: np.random.Generator) -> Region:
    """A square of ``side`` pixels, uniform among those that fit into ``height`` x ``width``."""
    top = int(stream.integers(height - side + 1))
    left = int(stream.integers(width - side + 1))
    return Region(top, left, side, side)


def draw_flips(hflip: bool, rotation: bool, stream: np.random.Generator) -> Flips:
    """Each with probability 1/2 where it is enabled; ``rotation`` enables vertical flip and transposition."""
    # A disabled one draws nothing, as in BasicSR.
    horizontal = hflip and stream.random() < 0.5
    vertical = rotation and stream.random() < 0.5
    transpose = rotation and stream.random() < 0.5
    return Flips(horizontal, vertical, transpose)


def cut(image: Pixels, region: Region, scale: int = 1) -> Pixels:
    """The part of ``image`` [H, W, C] that ``region``, counted in pixels ``scale`` times as large, covers; a view."""
    top, left = region.top * scale, region.left * scale
    return image[top : top + region.height * scale, left : left + region.width * scale]


def flip(image: Pixels, flips: Flips) -> Pixels:
    """``image`` [H, W, 3] flipped: the image itself, or a copy."""
    # NumPy's views of reversed axes cost several times as much as soon as they are read.
    if flips.horizontal or flips.vertical:
        image = cast("Pixels", cv2.flip(image, _FLIP_CODES[flips.horizontal, flips.vertical]))
    return cast("Pixels", cv2.transpose(image)) if flips.transpose else image
