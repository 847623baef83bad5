"""Whole images, for validation and tests: pairs in a fixed order, at any scale.

Shapes: H W high-resolution and h w low-resolution pixels, s scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from data.dataset_options import DatasetOptions
from data.images.colour import convert
from data.images.files import planes
from data.images.listing import Pair
from data.images.pairs import ImagePairs, PairPixels
from data.images.scan import size_text
from data.resizing.pillow import pil_bicubic_to
from data.samples import Sample
from utils.errors import InputError
from utils.scale import scaled_length, unscaled_length


class WholeImages:
    """Whole pairs of images.

    Args:
        options: the section of the option file.
        scale: s.
        pairs: the images; high-resolution ones may be larger than s times the low-resolution ones, the surplus at the
            bottom and on the right is cut off.
        downsample: makes the low-resolution image [h, w, 3] of a high-resolution one [H, W, 3] that has none; None:
            ``pairs`` brings all of them.
    """

    def __init__(
        self,
        options: DatasetOptions,
        scale: float,
        pairs: ImagePairs,
        downsample: Callable[[NDArray[Any], int], NDArray[Any]] | None = None,
    ) -> None:
        self.options, self.scale, self.name = options, scale, options.name
        self.pairs, self._downsample = pairs, downsample

    def __len__(self) -> int:
        return len(self.pairs)

    def name_of(self, index: int) -> str:
        """Base name of the low-resolution file, or of the high-resolution one where that is made from it."""
        pair = self.pairs.sources[index]
        return (pair.lq or pair.gt).name

    def read(self, index: int) -> Sample:
        """The pair ``index``: lq [C, h, w], gt [C, s h, s w], rounded; raises InputError if it cannot be used."""
        gt, lq = self.pairs[index]
        if lq is None:
            assert self._downsample is not None
            assert isinstance(self.scale, int)
            lq = self._downsample(gt, self.scale)
        height, width = (scaled_length(side, self.scale) for side in lq.shape[:2])
        small, large = (convert(planes(image), self.options) for image in (lq, gt[:height, :width]))
        pair = self.pairs.sources[index]
        source = pair.lq or pair.gt
        return Sample(small, large, source.name, source.label, pair.gt.label)

    def scan(self) -> tuple[str, ...]:
        """Read all images; returns what is wrong, an entry for each pair that cannot be used."""
        return self.pairs.scan()


def read_any_scale(pair: Pair, scale: float, *, strict: bool = False) -> PairPixels:
    """A pair at a scale that need not be whole; a low-resolution image that is missing is made.

    A low-resolution image of h pixels belongs to round(s h) high-resolution ones; what is beyond them is cropped. It is
    made by 8-bit bicubic downscaling as the Pillow library does it, which is how arbitrary scales are published.

    Args:
        pair: the images.
        scale: s.
        strict: refuse low-resolution images that are of a larger scale, by the next whole number or more.

    Raises:
        InputError: an image cannot be read, or their sizes do not fit.
    """
    gt = pair.gt.read()
    low = [unscaled_length(side, scale) for side in gt.shape[:2]]
    if min(low) < 1:
        raise InputError(f"{pair.gt.label}: the image is {size_text(gt)}, smaller than one pixel at x{scale:g}")
    lq = None if pair.lq is None else pair.lq.read()
    if lq is not None:
        low = list(lq.shape[:2])
    height, width = (scaled_length(side, scale) for side in low)
    if lq is not None and (height > gt.shape[0] or width > gt.shape[1]):
        assert pair.lq is not None
        raise InputError(
            f"{pair.lq.label}: the low-resolution image is {size_text(lq)}, and at x{scale:g} larger than "
            f"{pair.gt.label}, {size_text(gt)}"
        )
    if lq is not None and strict and any(high >= (scale + 1) * side for high, side in zip(gt.shape, low, strict=False)):
        assert pair.lq is not None
        raise InputError(
            f"{pair.lq.label}: the low-resolution image is {size_text(lq)}, which is not x{scale:g} of "
            f"{pair.gt.label}, {size_text(gt)}"
        )
    cropped = gt[:height, :width]
    if lq is None:
        small = pil_bicubic_to(planes(cropped), (low[0], low[1])).numpy()
        return PairPixels(cropped, small.transpose(1, 2, 0))
    return PairPixels(cropped, lq)
