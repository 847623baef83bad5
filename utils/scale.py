"""Sizes of images of any real scale: one rule for networks, data and evaluation.

Whole scales stay exact: they multiply and divide in whole numbers.
"""

from __future__ import annotations

import math


def as_scale(number: float) -> int | float:
    """A scale as the functions here take it: whole ones as integers."""
    return int(number) if float(number).is_integer() else number


def scale_text(scale: float | tuple[float, float]) -> str:
    """A scale, or a range of scales, as messages and tables call it: x4, x1 to x4."""
    return f"x{scale[0]:g} to x{scale[1]:g}" if isinstance(scale, tuple) else f"x{scale:g}"


def scaled_length(length: int, scale: float) -> int:
    """Pixels of an axis after upscaling; rounded."""
    return length * scale if isinstance(scale, int) else round(length * scale)


def unscaled_length(length: int, scale: float) -> int:
    """Pixels of the largest low-resolution axis that upscales to no more than ``length``."""
    if isinstance(scale, int):
        return length // scale
    # 37 / 3.7 is just below 10.
    return math.floor(length / scale + 1e-9)
