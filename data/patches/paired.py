"""Pairs of high- and low-resolution images, whole or as random patches.

Shapes: H W high-resolution and h w low-resolution pixels, s scale, p side of a low-resolution patch.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from data.dataset_options import folders
from data.images.files import Pixels
from data.images.listing import Pair
from data.images.scan import size_text
from data.patches import augment
from data.patches.dataset import Patch
from data.patches.on_the_fly import OnTheFlyDataset, OnTheFlyOptions
from data.resizing.matlab import downscale, downscale_windows, inside, mod_crop, window
from data.samples import Phase, Sample, SampleKey
from utils.errors import InputError
from utils.seed import random_stream
from utils.typed import option


class _PairPixels(NamedTuple):
    gt: Pixels  # [H, W, 3]
    lq: Pixels | None  # [h, w, 3]; None: to be made from gt where it is needed


class PairedImageDataset(OnTheFlyDataset):
    """High-resolution images with their low-resolution ones, which are read or made by bicubic downscaling.

    Low-resolution images that are made are those of the benchmark sets: the image is cropped to a multiple of the
    scale, downscaled by ``imresize`` as a whole, and rounded to 8 bits.

    Args:
        options: the section of the option file.
        scale: H = s h, W = s w.
        seed: ``manual_seed``; decides crops and flips together with the samples' keys.
        phase: "train": random patches by :meth:`sample` and :meth:`collect`; else whole images by :meth:`read`.

    Raises:
        InputError: a folder is missing or empty, images do not pair, or the options contradict each other.
    """

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(OnTheFlyOptions):
        """Pairs of images, for training and for evaluation with ground truth."""

        dataroot_lq: Path | tuple[Path, ...] | None = option(
            "folder of low-resolution images, as many as of high-resolution ones; null: made from those by bicubic "
            "downscaling",
            None,
        )
        filename_tmpl: str = option(
            "name of a low-resolution image, {} standing for the high-resolution one's, without extension", "{}"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if "{}" not in self.filename_tmpl:
                raise InputError(f'filename_tmpl: expected "{{}}" in it, as in "{{}}x4", got "{self.filename_tmpl}"')
            count = len(folders(self.dataroot_gt))
            if self.dataroot_lq is not None and len(folders(self.dataroot_lq)) != count:
                raise InputError(f"dataroot_lq: expected one for each folder of dataroot_gt ({count})")
            if self.dataroot_lq is not None and self.lr_on == "device":
                raise InputError("lr_on: device makes low-resolution patches, but dataroot_lq names a folder of them")

    def __init__(self, options: Options, scale: int, seed: int = 0, phase: Phase = "train") -> None:
        self.options = options
        kept = options.io_backend.type == "memory" and options.lr_on == "loader"  # made once with the image
        super().__init__(
            options, scale, seed, phase, folders(options.dataroot_lq), options.filename_tmpl,
            makes_lq=options.dataroot_lq is None and not kept,
        )  # fmt: skip

    def read(self, index: int) -> Sample:
        """The whole pair ``index``: lq [C, h, w], gt [C, s h, s w].

        Raises:
            InputError: an image cannot be read, or their sizes do not fit.
        """
        gt, lq = self._load(index)
        if lq is None:
            lq = downscale(gt, self.scale)
        height, width = lq.shape[:2]
        return self._whole(index, lq, gt[: height * self.scale, : width * self.scale])

    def _low(self, gt: Tensor) -> Tensor:
        return downscale_windows(gt, self.scale, "last")

    def _own(self, gt: Tensor) -> Tensor:
        return gt[..., inside(self.scale), inside(self.scale)]

    def _cut(self, key: SampleKey) -> Patch:
        gt, lq = self._load(key.image)
        stream = random_stream(self.seed, key.epoch, key.position)
        place = augment.draw_patch(gt.shape[0] // self.scale, gt.shape[1] // self.scale, self._patch, stream)
        flips = augment.draw_flips(self.options.use_hflip, self.options.use_rot, stream)
        if lq is None:
            return Patch(augment.flip(window(gt, place, self.scale), flips), None)
        large, small = augment.cut(gt, place, self.scale), augment.cut(lq, place)
        return Patch(augment.flip(large, flips), augment.flip(small, flips))

    def _load(self, index: int) -> _PairPixels:
        """A pair whose sizes are known to fit; without a low-resolution image, gt is a multiple of the scale."""
        if index in self._kept:
            kept: _PairPixels = self._kept[index]
            return kept
        pair = self.pairs[index]
        gt = whole = pair.gt.read()
        if pair.lq is None:
            gt = mod_crop(whole, self.scale)
            lq = downscale(gt, self.scale) if self._keeps and not self._makes_lq and gt.size else None
        else:
            lq = pair.lq.read()
            self._check_sizes(pair, gt, lq)
        if min(gt.shape[:2]) < max(self._patch * self.scale, self.scale):
            needed = f"the patches (gt_size {self.options.gt_size})" if self._patch else f"one pixel at x{self.scale}"
            raise InputError(
                f"{pair.gt.label}: the image is {size_text(whole)}, smaller than {needed}; "
                f"{'choose a smaller gt_size or ' if self._patch else ''}leave the image out"
            )
        pixels = _PairPixels(gt, lq)
        if self._keeps:
            self._kept[index] = pixels
        return pixels

    def _check_sizes(self, pair: Pair, gt: Pixels, lq: Pixels) -> None:
        assert pair.lq is not None
        scale = self.scale
        exact = gt.shape[:2] == (lq.shape[0] * scale, lq.shape[1] * scale)
        # Evaluation also takes images that were cropped before they were downscaled; the surplus is cut off.
        cropped = (gt.shape[0] // scale, gt.shape[1] // scale) == lq.shape[:2]
        if not exact and (self.phase == "train" or not cropped):
            sizes = f"the low-resolution image is {size_text(lq)}, but {pair.gt.label} is {size_text(gt)}"
            raise InputError(f"{pair.lq.label}: {sizes}; expected {scale} times as many rows and columns")
