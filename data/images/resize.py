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
_BAND = 1 << 21  # pixels that are looked at for one band, about
_REACH = 2  # pixels on either side that the filter sees; more where it shrinks


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
    """A picture with other sides; the rest of it stays. Made band by band: of large ones no copy is held as floats."""
    pixels, alpha = photo.pixels, photo.alpha
    H, W = pixels.shape[:2]
    if (height, width) == (H, W):
        return photo
    result = np.empty((height, width, pixels.shape[2]), pixels.dtype)
    opacity = None if alpha is None else np.empty((height, width, 1), pixels.dtype)
    varied = alpha is not None and alpha.min() < alpha.max()
    step = max(1, int(_BAND * height / (H * W)))
    for top in range(0, height, step):
        band = _Band(H, W, height, width, top, min(top + step, height))
        rows = slice(top, band.bottom)
        seen = None if alpha is None else band.planes(alpha)
        weight = seen[..., 0] if varied and seen is not None else None
        result[rows] = _rounded(band.colours(pixels, weight), pixels.dtype)
        if opacity is not None and seen is not None:
            opacity[rows] = _rounded(band.resized(seen), pixels.dtype)
    return dataclasses.replace(photo, pixels=result, alpha=opacity)


class _Band:
    """Rows ``top`` to ``bottom`` of a result of ``height`` x ``width`` pixels, made of H x W."""

    def __init__(self, H: int, W: int, height: int, width: int, top: int, bottom: int) -> None:
        ratio = H / height
        reach = _REACH * max(1.0, ratio) + 1
        self.first, self.last = max(0, int(top * ratio - reach)), min(H, int(bottom * ratio + reach) + 1)
        self.bottom, self.size = bottom, (width, bottom - top)
        self.box = (0, top * ratio - self.first, W, min(bottom * ratio, H) - self.first)

    def planes(self, levels: Levels) -> NDArray[np.float32]:
        """The rows that are looked at, [h, W, C]."""
        return levels[self.first : self.last].astype(np.float32)

    def resized(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """[h, W, C] -> [bottom - top, width, C]."""
        from PIL import Image

        each = (
            Image.fromarray(np.ascontiguousarray(planes[..., channel])).resize(
                self.size, Image.Resampling.BICUBIC, self.box
            )
            for channel in range(planes.shape[2])
        )
        return np.stack([np.asarray(plane) for plane in each], axis=2)

    def colours(self, pixels: Levels, weight: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The colours of the band; those of transparent pixels count for nothing, where others are near."""
        plain = self.planes(pixels)
        result = self.resized(plain)
        if weight is None:
            return result
        opacity = self.resized(weight[..., None])
        weighted = self.resized(plain * weight[..., None]) / np.maximum(opacity, 0.5)
        return np.where(opacity > 0.5, weighted, result)


def _rounded(planes: NDArray[np.float32], kind: Any) -> NDArray[Any]:
    return planes.clip(0, np.iinfo(kind).max).round().astype(kind)
