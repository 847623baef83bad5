"""ImageNetPairedDataset: high-resolution images of any size, low-resolution ones made on the fly: HAT's pre-training.

Each side shorter than ``gt_size`` is stretched to it (bilinear, the other side kept). Low-resolution images are made by
MATLAB's bicubic in floating point, neither rounded nor clipped, unlike those of files. A patch is drawn first and only
its own surroundings are downscaled, with the values of the whole image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data.dataset_options import whole_scale
from data.degradations import DegradationOptions
from data.images.files import in_unit
from data.images.listing import Pair
from data.images.pairs import PairPixels, SmallestImage
from data.patches.cutter import AlignedCutter
from data.patches.dataset import PatchDataset
from data.patches.options import WITHOUT_PARTNERS, DownsampledOptions
from data.patches.rules import Downsampled, matlab_bicubic_float
from data.resizing.interpolate import stretch
from data.resizing.matlab import MARGIN, imresize, mod_crop
from data.whole import WholeImages


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageNetPairedOptions(DownsampledOptions):
    """High-resolution images of any size, with low-resolution ones made on the fly."""

    IGNORED: ClassVar[Mapping[str, str]] = {**DownsampledOptions.IGNORED, **WITHOUT_PARTNERS}

    def training_set(self, scale: int, seed: int = 0, degradations: DegradationOptions | None = None) -> PatchDataset:
        """Random patches; see :meth:`data.dataset_options.DatasetOptions.training_set`."""
        size = self.patch_size(scale)
        return PatchDataset(
            self,
            seed,
            pairs=self.pairs(partial(read_stretched, scale=scale, least=size)),
            cutter=AlignedCutter(size, scale, self.augmentation, MARGIN),
            rule=Downsampled(matlab_bicubic_float, scale, MARGIN, self.lr_on),
        )

    def evaluation_set(self, scale: float) -> WholeImages:
        """Whole images; see :meth:`data.dataset_options.DatasetOptions.evaluation_set`."""
        factor = whole_scale(self.name, scale)
        read = partial(read_stretched, scale=factor, least=self.gt_size or factor)
        return WholeImages(self, factor, self.pairs(read), downscale_unrounded)


def read_stretched(pair: Pair, scale: int, least: int) -> PairPixels:
    """A high-resolution image cropped to multiples of the scale; float32 in [0, 1] where a side was stretched.

    Args:
        pair: the image.
        scale: high-resolution size / low-resolution size.
        least: what shorter sides are stretched to.

    Raises:
        InputError: the image cannot be read, or nothing of it is left.
    """
    whole = pair.gt.read()
    SmallestImage(scale, f"one pixel at x{scale}").check(pair.gt, whole)
    gt = mod_crop(whole, scale)
    return PairPixels(stretch(in_unit(gt), least) if min(gt.shape[:2]) < least else gt, None)


def downscale_unrounded(image: NDArray[Any], scale: int) -> NDArray[np.float32]:
    """The low-resolution image [h, w, 3] of a high-resolution one [H, W, 3]: in [0, 1] and a little beyond."""
    height, width = (side // scale for side in image.shape[:2])
    return imresize(in_unit(image).astype(np.float64), 1 / scale)[:height, :width].astype(np.float32)
