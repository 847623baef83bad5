"""DownsampleImageDataset: patches downscaled on the fly by 8-bit bicubic, as for ESC's training on DFLIP.

A patch at any place is cut, flipped, and downscaled as the Pillow library would do it. The low-resolution patch sees
nothing outside of its high-resolution one, unlike those of the other data sets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from data.dataset_options import whole_scale
from data.degradations import DegradationOptions
from data.images.files import Pixels, planes
from data.images.pairs import SmallestImage, read_gt
from data.patches.cutter import AnywhereCutter
from data.patches.dataset import PatchDataset
from data.patches.options import WITHOUT_PARTNERS, DownsampledOptions
from data.patches.rules import Downsampled
from data.resizing.matlab import mod_crop
from data.resizing.pillow import pil_bicubic
from data.whole import WholeImages


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownsampleImageOptions(DownsampledOptions):
    """High-resolution images; the low-resolution patch is made of the patch alone."""

    IGNORED: ClassVar[Mapping[str, str]] = {**DownsampledOptions.IGNORED, **WITHOUT_PARTNERS}

    def training_set(self, scale: int, seed: int = 0, degradations: DegradationOptions | None = None) -> PatchDataset:
        """Random patches; see :meth:`data.dataset_options.DatasetOptions.training_set`."""
        size = self.patch_size(scale)
        smallest = SmallestImage(size, f"{size} x {size}", "choose a smaller gt_size or leave the image out")
        return PatchDataset(
            self,
            seed,
            pairs=self.pairs(partial(read_gt, smallest=smallest)),
            cutter=AnywhereCutter(size, self.augmentation),
            rule=Downsampled(pil_bicubic, scale, place=self.lr_on),
        )

    def evaluation_set(self, scale: float) -> WholeImages:
        """Whole images; see :meth:`data.dataset_options.DatasetOptions.evaluation_set`."""
        factor = whole_scale(self.name, scale)
        read = partial(read_gt, smallest=SmallestImage(factor, f"{factor} x {factor}"))
        return WholeImages(self, factor, self.pairs(read), downscale_by_pillow)


def downscale_by_pillow(image: Pixels, scale: int) -> Pixels:
    """The low-resolution image [h, w, 3] of a high-resolution one [H, W, 3], of which a surplus is cut off."""
    small: Pixels = pil_bicubic(planes(mod_crop(image, scale)), scale).numpy()
    return small.transpose(1, 2, 0)
