"""Pillow for pictures of any size: without its limit, without warnings; its pictures as arrays.

Shapes: H W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image as Pillow


@contextmanager
def patient_pillow() -> Iterator[None]:
    """Pillow without its limit on the number of pixels, and without warnings about odd metadata."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def mode_of(image: Pillow.Image) -> str:
    """How a picture or frame that Pillow has read is decoded: "L", "RGB" or "RGBA"."""
    if "A" in image.getbands() or "transparency" in image.info:
        return "RGBA"
    return "L" if image.mode in ("L", "1") else "RGB"


def levels_of(image: Pillow.Image, mode: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """What Pillow has read in one of the three modes: uint8 [H, W, 3] R G B or [H, W, 1] grey; opacity [H, W, 1]."""
    levels = np.asarray(image.convert(mode))
    if mode == "RGBA":
        return np.ascontiguousarray(levels[..., :3]), np.ascontiguousarray(levels[..., 3:])
    return (levels if levels.ndim == 3 else levels[..., None]), None
