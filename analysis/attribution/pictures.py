"""Pictures of local attribution maps, as Gu & Dong (CVPR 2021) draw them.

Shapes: h w low-resolution pixels, H W pixels of the SR image; pictures uint8 [.., .., 3] in R G B.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from analysis.attribution.density import density
from analysis.attribution.objective import Window
from analysis.drawing import SEISMIC, Pixels, coloured, colours
from models.evaluation.pictures import enlarged

_RED = (255, 0, 0)
_THICK = 2  # pixels of the window's frame
_SHARE = 0.5  # of the map in an overlay


def in_red(values: NDArray[np.float64]) -> Pixels:
    """Values in [0, 1] [h, w] from white over red to dark red: the upper half of the colour map *seismic*."""
    return coloured(0.5 + np.clip(values, 0, 1) / 2, colours(SEISMIC))


def map_picture(values: NDArray[np.float64], height: int, width: int) -> Pixels:
    """A map [h, w] coloured, then enlarged to [height, width, 3]: each value is a rectangle."""
    return enlarged(in_red(values), height, width)


def density_picture(values: NDArray[np.float64], height: int, width: int) -> Pixels:
    """The kernel density of a map [h, w], divided by its maximum and coloured, then enlarged by Pillow's bicubic."""
    smooth = density(values)
    largest = smooth.max()
    return bicubic_8bit(in_red(smooth / largest if largest > 0 else smooth), height, width)


def overlay(picture: Pixels, lr: Pixels) -> Pixels:
    """Half the picture [H, W, 3] and half the LR image [h, w, 3], which is enlarged by Pillow's bicubic."""
    height, width = picture.shape[:2]
    below = bicubic_8bit(lr, height, width).astype(np.float64)
    return (_SHARE * picture + (1 - _SHARE) * below).astype(np.uint8)


def window_picture(picture: Pixels, window: Window) -> Pixels:
    """A copy of a picture [H, W, 3] with a red frame of 2 pixels, its corners those of the window."""
    corner, opposite = (window.x, window.y), (window.x + window.size, window.y + window.size)
    return np.asarray(cv2.rectangle(picture.copy(), corner, opposite, _RED, _THICK), np.uint8)


def window_of(picture: Pixels, window: Window) -> Pixels:
    """The part of a picture [H, W, 3] in the window."""
    return picture[window.y : window.y + window.size, window.x : window.x + window.size]


def bicubic_8bit(picture: Pixels, height: int, width: int) -> Pixels:
    """Pillow's bicubic of the 8-bit picture: [.., .., 3] -> [height, width, 3]."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC), np.uint8)
