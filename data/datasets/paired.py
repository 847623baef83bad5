"""PairedImageDataset: high-resolution images with their low-resolution ones, which are read, or made as benchmarks do.

Low-resolution images that are made are those of the benchmark sets: the image is cropped to a multiple of the scale,
downscaled by MATLAB's bicubic as a whole, and rounded to 8 bits.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Literal

from data.dataset_options import folders
from data.degradations import DegradationOptions
from data.images.files import Pixels
from data.images.listing import Pair
from data.images.pairs import PairPixels, SmallestImage
from data.images.scan import size_text
from data.patches.cutter import AlignedCutter
from data.patches.dataset import PatchDataset
from data.patches.options import DownsampledOptions
from data.patches.rules import Downsampled, Paired, matlab_bicubic
from data.resizing.matlab import MARGIN, downscale, mod_crop
from data.whole import WholeImages, read_any_scale
from utils.errors import InputError
from utils.typed import option
from utils.wording import shortened

_LONGEST_TEMPLATE = 200  # characters; with the name itself, file systems take 255 bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedImageOptions(DownsampledOptions):
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
        problem = template_problem(self.filename_tmpl)
        if problem is not None:
            raise InputError(f"filename_tmpl: {problem}")
        count = len(folders(self.dataroot_gt))
        if self.dataroot_lq is not None and len(folders(self.dataroot_lq)) != count:
            raise InputError(f"dataroot_lq: expected one for each folder of dataroot_gt ({count})")
        if self.dataroot_lq is not None and self.lr_on == "device":
            raise InputError("lr_on: device makes low-resolution patches, but dataroot_lq names a folder of them")

    @property
    def _makes_images(self) -> bool:
        """Whether low-resolution images are made as a whole, once, and kept with the others."""
        return self.dataroot_lq is None and self.io_backend.type == "memory" and self.lr_on == "loader"

    def training_set(self, scale: int, seed: int = 0, degradations: DegradationOptions | None = None) -> PatchDataset:
        """Random patches; see :meth:`data.dataset_options.DatasetOptions.training_set`."""
        size = self.patch_size(scale)
        smallest = SmallestImage(
            size, f"the patches (gt_size {size})", "choose a smaller gt_size or leave the image out"
        )
        read = partial(read_pair, scale=scale, smallest=smallest, surplus="refuse", make_lq=self._makes_images)
        makes_patches = self.dataroot_lq is None and not self._makes_images
        margin = MARGIN if makes_patches else 0
        return PatchDataset(
            self,
            seed,
            pairs=self.pairs(read, self.dataroot_lq, self.filename_tmpl),
            cutter=AlignedCutter(size, scale, self.augmentation, margin),
            rule=Downsampled(matlab_bicubic, scale, margin, self.lr_on) if makes_patches else Paired(),
        )

    def evaluation_set(self, scale: float) -> WholeImages:
        """Whole pairs; see :meth:`data.dataset_options.DatasetOptions.evaluation_set`."""
        if not isinstance(scale, int):
            read = partial(read_any_scale, scale=scale)
            return WholeImages(self, scale, self.pairs(read, self.dataroot_lq, self.filename_tmpl))
        smallest = SmallestImage(scale, f"one pixel at x{scale}")
        read = partial(read_pair, scale=scale, smallest=smallest, surplus="cut", make_lq=self._makes_images)
        return WholeImages(self, scale, self.pairs(read, self.dataroot_lq, self.filename_tmpl), downscale)


def template_problem(template: str) -> str | None:
    """What is wrong with the name of low-resolution images; None where nothing is."""
    rest, shown = template.replace("{}", ""), shortened(template)
    if "{}" not in template:
        return f'expected "{{}}" in it, as in "{{}}x4", got "{shown}"'
    if "{" in rest or "}" in rest:
        return f'expected no other braces than "{{}}", which stands for the name, got "{shown}"'
    if not template.isprintable() or "\\" in template or len(template) > _LONGEST_TEMPLATE:
        return f"expected a short name of a file, got {shown!a}"
    if template.startswith("/") or any(part in ("", ".", "..") for part in template.split("/")):
        return f'expected a name within the folder of low-resolution images, got "{shown}"'
    return None


def read_pair(
    pair: Pair, scale: int, smallest: SmallestImage, surplus: Literal["refuse", "cut"], make_lq: bool
) -> PairPixels:
    """A pair whose sizes are known to fit.

    Args:
        pair: the images.
        scale: high-resolution size / low-resolution size.
        smallest: high-resolution image that can be used.
        surplus: what to do with high-resolution images that were cropped before they were downscaled.
        make_lq: make a low-resolution image that is missing.

    Raises:
        InputError: an image cannot be read, is too small, or their sizes do not fit.
    """
    whole = pair.gt.read()
    lq = None if pair.lq is None else pair.lq.read()
    if lq is not None:
        _check_sizes(pair, whole, lq, scale, surplus)
    smallest.check(pair.gt, whole)
    if lq is not None:
        return PairPixels(whole, lq)
    gt = mod_crop(whole, scale)
    return PairPixels(gt, downscale(gt, scale) if make_lq else None)


def _check_sizes(pair: Pair, gt: Pixels, lq: Pixels, scale: int, surplus: Literal["refuse", "cut"]) -> None:
    assert pair.lq is not None
    exact = gt.shape[:2] == (lq.shape[0] * scale, lq.shape[1] * scale)
    cropped = (gt.shape[0] // scale, gt.shape[1] // scale) == lq.shape[:2]
    if not exact and (surplus == "refuse" or not cropped):
        sizes = f"the low-resolution image is {size_text(lq)}, but {pair.gt.label} is {size_text(gt)}"
        raise InputError(f"{pair.lq.label}: {sizes}; expected {scale} times as many rows and columns")
