"""Cutters: where a random patch is cut out of a pair of images, and how it is flipped.

A cutter draws from the random stream of its sample alone, in a fixed order: the patch depends on nothing else.

Shapes: images [H, W, C] as they are stored; s scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data.images.pairs import PairPixels
from data.patches.augment import Augmentation, flip_pair
from data.patches.batch import Patch
from data.resizing.matlab import Region, window


class Cutter(Protocol):
    """How the patch of one sample is cut."""

    def cut(self, images: PairPixels, stream: np.random.Generator) -> Patch:
        """The flipped patch of both images, views or new arrays; ``stream`` is that of the sample."""


@dataclass(frozen=True)
class AlignedCutter:
    """Patches that start at a whole low-resolution pixel, of both images or of the high-resolution one.

    Attributes:
        gt_size: side of the high-resolution patch, a multiple of ``scale``.
        scale: s.
        augmentation: flips, drawn after the place.
        margin: low-resolution pixels around the patch whose high-resolution ones are cut with it, for an LR rule that
            looks at them.
    """

    gt_size: int
    scale: int
    augmentation: Augmentation
    margin: int = 0

    def cut(self, images: PairPixels, stream: np.random.Generator) -> Patch:
        """See :class:`Cutter`."""
        gt, lq = images
        place = draw_square(gt.shape[0] // self.scale, gt.shape[1] // self.scale, self.gt_size // self.scale, stream)
        flips = self.augmentation.draw(stream)
        small = None if lq is None else crop(lq, place)
        return flip_pair(window(gt, place, self.scale, self.margin), small, flips)


@dataclass(frozen=True)
class AnywhereCutter:
    """Patches of a high-resolution image at any place, whatever the scale.

    Attributes:
        gt_size: side of the patch.
        augmentation: flips, drawn after the place.
    """

    gt_size: int
    augmentation: Augmentation

    def cut(self, images: PairPixels, stream: np.random.Generator) -> Patch:
        """See :class:`Cutter`."""
        height, width = images.gt.shape[:2]
        place = draw_square(height, width, self.gt_size, stream)
        return flip_pair(crop(images.gt, place), None, self.augmentation.draw(stream))


@dataclass(frozen=True)
class MirroringCutter:
    """Patches of a high-resolution image at any place; smaller images are continued by mirroring.

    As published, the image is flipped first, and then continued below and to the right.

    Attributes:
        size: side of the patch.
        augmentation: flips, drawn before the place, as Real-ESRGAN does.
    """

    size: int
    augmentation: Augmentation

    def cut(self, images: PairPixels, stream: np.random.Generator) -> Patch:
        """See :class:`Cutter`."""
        flips = self.augmentation.draw(stream)
        height, width = images.gt.shape[:2]
        place = draw_square(max(height, self.size), max(width, self.size), self.size, stream)
        patch = crop(images.gt, place)
        rows, columns = self.size - patch.shape[0], self.size - patch.shape[1]
        if rows or columns:
            # The patch is flipped last, which copies less: what is to be below is above here if it is turned over.
            above, before = rows * flips.vertical, columns * flips.horizontal
            around = ((above, rows - above), (before, columns - before), (0, 0))
            patch = np.pad(patch, around, mode="reflect")  # as often as needed
        return flip_pair(patch, None, flips)


def draw_square(height: int, width: int, side: int, stream: np.random.Generator) -> Region:
    """A square of ``side`` pixels, uniform among those that fit into ``height`` x ``width``."""
    top = int(stream.integers(height - side + 1))
    left = int(stream.integers(width - side + 1))
    return Region(top, left, side, side)


def crop(image: NDArray[Any], region: Region) -> NDArray[Any]:
    """The part of ``image`` [H, W, C] that lies in ``region``; a view."""
    return image[region.top : region.top + region.height, region.left : region.left + region.width]
