"""Patches of any scale: a crop whose side is drawn, downscaled to a fixed side, and some pixels of it to ask for.

As ESC+LTE is trained (after Chen, Liu and Wang, Learning Continuous Image Representation with Local Implicit Image
Function, CVPR 2021): crops of a batch differ in size, and the same number of pixels of each makes it rectangular.

Shapes: p side of the low-resolution patch, P of the crop, Q pixels that are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data.images.files import planes
from data.images.pairs import PairPixels
from data.patches.augment import Augmentation, Flips, flip
from data.patches.batch import Patch
from data.patches.cutter import crop, draw_square
from data.patches.rules import Paired
from data.resizing.matlab import Region
from data.resizing.pillow import pil_bicubic_to


@dataclass(frozen=True)
class AnyScaleCutter:
    """A crop of ``round(p s)`` pixels at any place, s drawn for each sample; its LR patch sees nothing outside of it.

    The scale, the place, the flips and the pixels are drawn in this order.

    Attributes:
        lq_size: p.
        scales: the least and the largest s; of images with less than ``p s`` pixels on a side, up to that.
        sample_q: Q, drawn without replacement; None: all P * P pixels, row by row.
        augmentation: flips, of the crop and of its LR patch, which is made before.
    """

    lq_size: int
    scales: tuple[float, float]
    sample_q: int | None
    augmentation: Augmentation

    def cut(self, images: PairPixels, stream: np.random.Generator) -> Patch:
        """See :class:`data.patches.cutter.Cutter`; ``gt`` of the patch is [Q, 1, 3]."""
        height, width = images.gt.shape[:2]
        shorter = min(height, width)
        low, high = self.scales
        high = min(high, max(low, shorter / self.lq_size))
        side = min(round(self.lq_size * (low + (high - low) * stream.random())), shorter)
        place = draw_square(height, width, side, stream)
        flips = self.augmentation.draw(stream)
        count = side * side
        chosen = np.arange(count) if self.sample_q is None else stream.choice(count, self.sample_q, replace=False)
        return patch_at(images.gt, place, self.lq_size, flips, chosen)


def patch_at(image: NDArray[np.uint8], place: Region, lq_size: int, flips: Flips, chosen: NDArray[np.int64]) -> Patch:
    """The patch whose place, flips and pixels are known.

    Args:
        image: [H, W, 3].
        place: a square of P pixels.
        lq_size: p.
        flips: of the crop and of its LR patch, which is made before.
        chosen: [Q], pixels of the flipped crop, counted row by row.

    Returns:
        Gt [Q, 1, 3] and lq [p, p, 3].
    """
    whole = crop(image, place)
    small = pil_bicubic_to(planes(whole), (lq_size, lq_size)).permute(1, 2, 0).contiguous().numpy()
    rows, columns = np.divmod(chosen, place.height)
    return Patch(flip(whole, flips)[rows, columns][:, None], flip(small, flips), chosen, place.height)


class DownsampledWhenCut(Paired):
    """The LR rule of patches that the cutter has downscaled, each by a factor of its own."""

    def compile(self) -> None:
        """Compile the downscaling."""
        pil_bicubic_to(torch.zeros(3, 16, 16, dtype=torch.uint8), (8, 8))
