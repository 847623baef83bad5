"""High-resolution images whose patches are downscaled on the fly by 8-bit bicubic: ESC's training on DFLIP.

Shapes: H W high-resolution and h w low-resolution pixels, s scale, p side of a low-resolution patch.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from data.images.files import Pixels, planes
from data.patches import augment
from data.patches.dataset import Patch
from data.patches.on_the_fly import OnTheFlyDataset, OnTheFlyOptions
from data.resizing.matlab import mod_crop
from data.resizing.pillow import pil_bicubic
from data.samples import Phase, Sample, SampleKey
from utils.seed import random_stream


class DownsampleImageDataset(OnTheFlyDataset):
    """High-resolution images; a patch at any place is cut, flipped, and downscaled as the Pillow library would do it.

    The low-resolution patch sees nothing outside of its high-resolution one, unlike those of the other data sets.

    Args:
        options: the section of the option file.
        scale: H = s h, W = s w.
        seed: ``manual_seed``; decides crops and flips together with the samples' keys.
        phase: "train": random patches; else whole images by :meth:`read`.

    Raises:
        InputError: a folder is missing or empty, or the options contradict each other.
    """

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(OnTheFlyOptions):
        """High-resolution images; the low-resolution patch is made of the patch alone."""

    def __init__(self, options: Options, scale: int, seed: int = 0, phase: Phase = "train") -> None:
        self.options = options
        super().__init__(options, scale, seed, phase)

    def read(self, index: int) -> Sample:
        """The whole image ``index``: lq [C, h, w], gt [C, s h, s w]; raises InputError when it cannot be read."""
        gt = mod_crop(self._load(index), self.scale)
        return self._whole(index, self._low(planes(gt)).numpy().transpose(1, 2, 0), gt)

    def _low(self, gt: Tensor) -> Tensor:
        return pil_bicubic(gt, self.scale)

    def _own(self, gt: Tensor) -> Tensor:
        return gt  # nothing outside of a patch is seen

    def _cut(self, key: SampleKey) -> Patch:
        image = self._load(key.image)
        stream = random_stream(self.seed, key.epoch, key.position)
        place = augment.draw_patch(image.shape[0], image.shape[1], self._patch * self.scale, stream)
        flips = augment.draw_flips(self.options.use_hflip, self.options.use_rot, stream)
        return Patch(augment.flip(augment.cut(image, place), flips), None)

    def _load(self, index: int) -> Pixels:
        return self._load_gt(index, self._patch * self.scale or self.scale)
