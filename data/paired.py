"""Pairs of high- and low-resolution images, whole or as random patches.

Shapes: H W high-resolution and h w low-resolution pixels, s scale, p side of a low-resolution patch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data import augment
from data.dataset_options import DatasetOptions, check_backend, folders
from data.images import Pixels, planes
from data.imresize import downscale, mod_crop
from data.listing import Pair, list_pairs
from data.sampler import SampleKey, epoch_length
from data.samples import Phase, PixelBatch, Sample, convert
from data.scan import about, in_threads, scan, size_text
from utils.errors import InputError
from utils.seed import random_stream
from utils.typed import option


class _PairPixels(NamedTuple):
    gt: Pixels  # [H, W, 3]
    lq: Pixels | None  # [h, w, 3]; None: to be made from gt where it is needed


class _Patch(NamedTuple):
    gt: Pixels  # [H, W, 3], a view
    lq: Pixels  # [h, w, 3], a view


class PairedImageDataset:
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
    class Options(DatasetOptions):
        """Pairs of images, for training and for evaluation with ground truth."""

        dataroot_gt: Path | tuple[Path, ...] = option(
            "folder of high-resolution images; a list of folders is joined in its order"
        )
        dataroot_lq: Path | tuple[Path, ...] | None = option(
            "folder of low-resolution images, as many as of high-resolution ones; null: made from those by bicubic "
            "downscaling",
            None,
        )
        meta_info_file: Path | tuple[Path, ...] | None = option(
            "text file that lists the images to use, one name per line; null: all images of the folder", None
        )
        filename_tmpl: str = option(
            "name of a low-resolution image, {} standing for the high-resolution one's, without extension", "{}"
        )
        gt_size: int | None = option(
            "side of the high-resolution patches, a multiple of scale; required in training", None, minimum=1
        )
        use_hflip: bool = option("flip patches left-right at random", True)
        use_rot: bool = option("flip patches top-bottom, and transpose them, at random", True)

        def __post_init__(self) -> None:
            super().__post_init__()
            if "{}" not in self.filename_tmpl:
                raise InputError(f'filename_tmpl: expected "{{}}" in it, as in "{{}}x4", got "{self.filename_tmpl}"')
            count = len(folders(self.dataroot_gt))
            for key, roots in (("dataroot_lq", self.dataroot_lq), ("meta_info_file", self.meta_info_file)):
                if roots is not None and len(folders(roots)) != count:
                    raise InputError(f"{key}: expected one for each folder of dataroot_gt ({count})")

    def __init__(self, options: Options, scale: int, seed: int = 0, phase: Phase = "train") -> None:
        self.options, self.scale, self.seed, self.phase = options, scale, seed, phase
        self.name = options.name
        gt_folders, lq_folders = folders(options.dataroot_gt), folders(options.dataroot_lq)
        check_backend(options, (*gt_folders, *lq_folders))
        self._patch = self._patch_side() if phase == "train" else 0
        with about(self.name):
            self.pairs = list_pairs(gt_folders, lq_folders, folders(options.meta_info_file), options.filename_tmpl)
        self._keeps = options.io_backend.type == "memory"
        self._kept: dict[int, _PairPixels] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def epoch_length(self) -> int:
        """Samples of one epoch."""
        return epoch_length(len(self), self.options.dataset_enlarge_ratio)

    def read(self, index: int) -> Sample:
        """The whole pair ``index``: lq [C, h, w], gt [C, s h, s w].

        Raises:
            InputError: an image cannot be read, or their sizes do not fit.
        """
        gt, lq = self._load(index)
        if lq is None:
            lq = downscale(gt, self.scale)
        height, width = lq.shape[:2]
        return self._sample(index, _Patch(gt[: height * self.scale, : width * self.scale], lq))

    def sample(self, key: SampleKey) -> Sample:
        """One training patch: lq [C, p, p], gt [C, s p, s p] with s p = ``gt_size``.

        Raises:
            InputError: an image cannot be read, their sizes do not fit, or they are smaller than a patch.
        """
        return self._sample(key.image, self._cut(key))

    def collect(self, keys: Sequence[SampleKey]) -> PixelBatch:
        """The patches of a batch, 8 bit; errors as :meth:`sample`."""
        side = self._patch
        lq = torch.empty((len(keys), 3, side, side), dtype=torch.uint8)
        gt = torch.empty((len(keys), 3, side * self.scale, side * self.scale), dtype=torch.uint8)
        lq_pixels, gt_pixels = lq.numpy(), gt.numpy()
        for i, key in enumerate(keys):
            patch = self._cut(key)  # views: this is the only copy
            lq_pixels[i] = patch.lq.transpose(2, 0, 1)
            gt_pixels[i] = patch.gt.transpose(2, 0, 1)
        return PixelBatch(lq, gt, tuple(self.pairs[key.image].gt.label for key in keys), keys[0].epoch)

    def convert(self, pixels: Tensor) -> Tensor:
        """uint8 [..., 3, H, W] -> float32 [..., C, H, W]: in [0, 1], luminance and normalised if asked for."""
        return convert(pixels, self.options)

    def preload(self) -> None:
        """With ``io_backend: memory``: decode all images that have not been, by several threads.

        Raises:
            InputError: an image cannot be used.
        """
        missing = [i for i in range(len(self)) if i not in self._kept] if self._keeps else []
        in_threads(self._load, missing, f"{self.name}: decoding")

    def scan(self) -> tuple[str, ...]:
        """Read all images; returns what is wrong, an entry for each image that cannot be used."""
        return scan(self._load, len(self), self.name)

    def _patch_side(self) -> int:
        """Side of the low-resolution patches."""
        size = self.options.gt_size
        if size is None:
            raise InputError(f"{self.name}: gt_size is missing; expected the side of the high-resolution patches")
        if size % self.scale:
            raise InputError(f"{self.name}: gt_size: expected a multiple of the scale {self.scale}, got {size}")
        return size // self.scale

    def _cut(self, key: SampleKey) -> _Patch:
        gt, lq = self._load(key.image)
        stream = random_stream(self.seed, key.epoch, key.position)
        place = augment.draw_patch(gt.shape[0] // self.scale, gt.shape[1] // self.scale, self._patch, stream)
        flips = augment.draw_flips(self.options.use_hflip, self.options.use_rot, stream)
        small = downscale(gt, self.scale, place) if lq is None else augment.cut(lq, place)
        return _Patch(augment.flip(augment.cut(gt, place, self.scale), flips), augment.flip(small, flips))

    def _sample(self, index: int, patch: _Patch) -> Sample:
        gt, lq = self.pairs[index]
        small, large = self.convert(planes(patch.lq)), self.convert(planes(patch.gt))
        return Sample(small, large, (lq or gt).name, (lq or gt).label, gt.label)

    def _load(self, index: int) -> _PairPixels:
        """A pair whose sizes are known to fit; without a low-resolution image, gt is a multiple of the scale."""
        if index in self._kept:
            return self._kept[index]
        pair = self.pairs[index]
        gt = whole = pair.gt.read()
        if pair.lq is None:
            gt = mod_crop(whole, self.scale)
            # Where pixels are kept, it is made once; a patch of it is cheaper than the whole.
            lq = downscale(gt, self.scale) if self._keeps and gt.size else None
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
