"""Random flips of patches: what is done is drawn first, then applied to both images.

Shapes: images [H, W, C] as they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from data.patches.batch import Patch

_FLIP_CODES = {(True, False): 1, (False, True): 0, (True, True): -1}  # OpenCV's


class Flips(NamedTuple):
    """Which of the three generators of the eight symmetries of a square are applied, in this order."""

    horizontal: bool
    vertical: bool
    transpose: bool


@dataclass(frozen=True)
class Augmentation:
    """Which flips happen at random, each with probability 1/2.

    Attributes:
        hflip: left-right.
        rotation: top-bottom, and transposition.
    """

    hflip: bool
    rotation: bool

    def draw(self, stream: np.random.Generator) -> Flips:
        """The flips of one sample."""
        # A disabled one draws nothing, as in BasicSR.
        horizontal = self.hflip and stream.random() < 0.5
        vertical = self.rotation and stream.random() < 0.5
        transpose = self.rotation and stream.random() < 0.5
        return Flips(horizontal, vertical, transpose)


def flip_pair(gt: NDArray[Any], lq: NDArray[Any] | None, flips: Flips) -> Patch:
    """Both images [H, W, 3] flipped alike."""
    return Patch(flip(gt, flips), None if lq is None else flip(lq, flips))


def flip(image: NDArray[Any], flips: Flips) -> NDArray[Any]:
    """``image`` [H, W, 3] flipped: the image itself, or a copy."""
    # NumPy's views of reversed axes cost several times as much as soon as they are read.
    if flips.horizontal or flips.vertical:
        image = cast("NDArray[Any]", cv2.flip(image, _FLIP_CODES[flips.horizontal, flips.vertical]))
    return cast("NDArray[Any]", cv2.transpose(image)) if flips.transpose else image
