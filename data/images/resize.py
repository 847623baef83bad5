"""Pictures to the size that a user asks for, after they were upscaled.

Cubic convolution, widened when it shrinks so that every pixel counts (Pillow's bicubic filter). Colours are weighted by
their opacity, so that the colour of transparent pixels does not come into the edges.

Shapes: H W pixels, C channels.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.images.photo import Levels, Photo
from utils.errors import InputError

_FACTOR = re.compile(r"(\d+(?:\.\d+)?)x")
_SIZE = re.compile(r"(\d+)x(\d+)")


@dataclasses.dataclass(frozen=True)
class Resize:
    """A wish for the size of results; one of the three is set.

    Attributes:
        factor: size of the result / size of the picture before it was upscaled.
        size: (height, width), whatever the aspect ratio was.
        longest: pixels of the longer side; the aspect ratio stays.
    """

    factor: float | None = None
    size: tuple[int, int] | None = None
    longest: int | None = None

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result for a picture that had these before it was upscaled; at least 1."""
        if self.size is not None:
            return self.size
        factor = self.factor if self.longest is None else self.longest / max(height, width)
        assert factor is not None
        return max(1, round(height * factor)), max(1, round(width * factor))


def parse_resize(words: Sequence[str]) -> Resize:
    """What "2x", "1920x1080" or "longest 3840" asks for.

    Raises:
        InputError: it is none of the three, or asks for no pixels.
    """
    text = " ".join(words)
    if size := _SIZE.fullmatch(text):
        wish = Resize(size=(int(size[2]), int(size[1])))
        if 0 not in (wish.size or ()):
            return wish
    elif factor := _FACTOR.fullmatch(text):
        if float(factor[1]) > 0:
            return Resize(factor=float(factor[1]))
    elif len(words) == 2 and words[0] == "longest" and words[1].isdecimal() and int(words[1]) > 0:
        return Resize(longest=int(words[1]))
    raise InputError(
        f"--resize {text}: expected a factor of the picture's own size such as 2x, a size WIDTHxHEIGHT such as "
        "1920x1080, or the longer side such as: longest 3840"
    )


def resized(photo: Photo, height: int, width: int) -> Photo:
    """A picture with other sides; the rest of it stays."""
    if photo.pixels.shape[:2] == (height, width):
        return photo
    alpha = photo.alpha
    if alpha is None or alpha.min() == alpha.max():
        pixels = _each_channel(photo.pixels, height, width)
        flat = None if alpha is None else np.full((height, width, 1), alpha.flat[0], alpha.dtype)
        return dataclasses.replace(photo, pixels=pixels, alpha=flat)
    weight = alpha[..., 0].astype(np.float32)
    opacity = _plane(weight, height, width)
    pixels = np.empty((height, width, photo.pixels.shape[2]), photo.pixels.dtype)
    for channel in range(pixels.shape[2]):
        plain = photo.pixels[..., channel].astype(np.float32)
        coloured = _plane(plain * weight, height, width)
        # Where nothing is to be seen, the colour that neighbours have there.
        colour = np.where(opacity > 0.5, coloured / np.maximum(opacity, 0.5), _plane(plain, height, width))
        pixels[..., channel] = _rounded(colour, pixels.dtype)
    return dataclasses.replace(photo, pixels=pixels, alpha=_rounded(opacity, alpha.dtype)[..., None])


def _each_channel(levels: Levels, height: int, width: int) -> Any:
    result = np.empty((height, width, levels.shape[2]), levels.dtype)
    for channel in range(levels.shape[2]):
        plane = _plane(levels[..., channel].astype(np.float32), height, width)
        result[..., channel] = _rounded(plane, levels.dtype)
    return result


def _plane(plane: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """[H, W] -> [height, width]."""
    from PIL import Image

    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))


def _rounded(plane: NDArray[np.float32], kind: Any) -> NDArray[Any]:
    return plane.clip(0, np.iinfo(kind).max).round().astype(kind)
