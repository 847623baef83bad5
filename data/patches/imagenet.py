"""High-resolution images of any size whose low-resolution ones are made while training: HAT's pre-training data.

Each side shorter than ``gt_size`` is stretched to it (bilinear, the other side kept); low-resolution images are
neither rounded nor clipped, unlike those of files.

Shapes: H W high-resolution and h w low-resolution pixels, s scale, p side of a low-resolution patch.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.images.files import to_unit
from data.images.scan import size_text
from data.patches import augment
from data.patches.dataset import Patch, in_unit
from data.patches.on_the_fly import OnTheFlyDataset, OnTheFlyOptions
from data.resizing.interpolate import stretch
from data.resizing.matlab import downscale_windows, imresize, inside, mod_crop, window
from data.samples import Phase, Sample, SampleKey
from utils.errors import InputError
from utils.seed import random_stream


class ImageNetPairedDataset(OnTheFlyDataset):
    """High-resolution images; low-resolution ones are downscaled from them by MATLAB's bicubic, in floating point.

    A patch is drawn first and only its own surroundings are downscaled, with the values of the whole image.

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
        """High-resolution images of any size, with low-resolution ones made on the fly."""

    def __init__(self, options: Options, scale: int, seed: int = 0, phase: Phase = "train") -> None:
        self.options = options
        super().__init__(options, scale, seed, phase)
        self._least = options.gt_size or scale

    def read(self, index: int) -> Sample:
        """The whole image ``index``: lq [C, h, w], gt [C, s h, s w]; raises InputError when it cannot be read."""
        gt = self._load(index)
        height, width = (side // self.scale for side in gt.shape[:2])
        lq = imresize(in_unit(gt).astype(np.float64), 1 / self.scale)[:height, :width].astype(np.float32)
        return self._whole(index, lq, gt[: height * self.scale, : width * self.scale])

    def _low(self, gt: Tensor) -> Tensor:
        # Rounded to float32 before and after: a window does not depend on what else is in its batch.
        unit = to_unit(gt) if gt.dtype == torch.uint8 else gt
        return downscale_windows(unit, self.scale).to(torch.float32)  # in [0, 1] and a little beyond

    def _own(self, gt: Tensor) -> Tensor:
        return gt[..., inside(self.scale), inside(self.scale)]

    def _cut(self, key: SampleKey) -> Patch:
        gt = self._load(key.image)
        stream = random_stream(self.seed, key.epoch, key.position)
        place = augment.draw_patch(gt.shape[0] // self.scale, gt.shape[1] // self.scale, self._patch, stream)
        flips = augment.draw_flips(self.options.use_hflip, self.options.use_rot, stream)
        return Patch(augment.flip(window(gt, place, self.scale), flips), None)

    def _load(self, index: int) -> NDArray[Any]:
        """The image, sides multiples of the scale and at least ``gt_size``; float32 in [0, 1] where stretched."""
        if index in self._kept:
            kept: NDArray[Any] = self._kept[index]
            return kept
        source = self.pairs[index].gt
        whole = source.read()
        gt = mod_crop(whole, self.scale)
        if not gt.size:
            raise InputError(
                f"{source.label}: the image is {size_text(whole)}, smaller than one pixel at x{self.scale}; "
                "leave the image out"
            )
        if min(gt.shape[:2]) < self._least:
            gt = stretch(in_unit(gt), self._least)
        if self._keeps:
            self._kept[index] = gt
        return gt
