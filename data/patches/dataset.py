"""What all data sets of training patches share: their images, what is kept, how a batch is collected.

Shapes: H W high-resolution and h w low-resolution pixels, s scale, p side of a low-resolution patch.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from data.dataset_options import DatasetOptions, check_backend, folders
from data.images.colour import convert
from data.images.files import Pixels, planes
from data.images.listing import list_pairs
from data.images.scan import about, in_threads, scan, size_text
from data.patches.sampler import epoch_length, shares_of
from data.samples import Phase, PixelBatch, Sample, SampleKey, Share
from utils.errors import InputError
from utils.log import get_logger
from utils.seed import random_stream
from utils.typed import option

_ATTEMPTS = 100  # bad images in a row, after which something else is wrong


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchOptions(DatasetOptions):
    """What data sets with high-resolution images have in common."""

    dataroot_gt: Path | tuple[Path, ...] = option(
        "folder of high-resolution images; a list of folders is joined in its order"
    )
    dataroot_weights: tuple[float, ...] | None = option(
        "how often an epoch sees each image of each folder of dataroot_gt, beside dataset_enlarge_ratio; of a folder "
        "below 1, every epoch sees another part; null: all alike",
        None,
        minimum=0,
    )
    meta_info_file: Path | tuple[Path, ...] | None = option(
        "text file that lists the images to use, one name per line; null: all images of the folder", None
    )
    gt_size: int | None = option(
        "side of the high-resolution patches, a multiple of scale; required in training", None, minimum=1
    )
    use_hflip: bool = option("flip patches left-right at random", True)
    use_rot: bool = option("flip patches top-bottom, and transpose them, at random", True)
    on_error: Literal["stop", "skip"] = option(
        "an image that cannot be used ends the training, or is named once and another image takes its place (always "
        "the same one)",
        "stop",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(folders(self.dataroot_gt))
        if self.meta_info_file is not None and len(folders(self.meta_info_file)) != count:
            raise InputError(f"meta_info_file: expected one for each folder of dataroot_gt ({count})")
        if self.dataroot_weights is not None and len(self.dataroot_weights) != count:
            raise InputError(f"dataroot_weights: expected one number for each folder of dataroot_gt ({count})")
        if self.dataroot_weights is not None and min(self.dataroot_weights) <= 0:
            raise InputError("dataroot_weights: expected numbers above 0; leave a folder out instead")


class Patch(NamedTuple):
    """One training sample before it is copied into a batch.

    Attributes:
        gt: [H, W, 3], a view or new; perhaps with the margin that making ``lq`` needs.
        lq: [h, w, 3], or None where it is made of the batch.
    """

    gt: NDArray[Any]
    lq: NDArray[Any] | None


class PatchDataset(ABC):
    """Images with patches that only depend on their keys; subclasses say how one is cut and finished.

    Args:
        options: the section of the option file.
        scale: H = s h, W = s w.
        seed: ``manual_seed``; decides crops and flips together with the samples' keys.
        phase: "train" for patches, else whole images.
        lq_folders: of low-resolution images, one for each folder of the options, or none.
        template: name of a low-resolution image, ``{}`` standing for the high-resolution one's.

    Raises:
        InputError: a folder is missing or empty, images do not pair, or the options contradict each other.
    """

    def __init__(
        self,
        options: PatchOptions,
        scale: int,
        seed: int,
        phase: Phase,
        lq_folders: tuple[Path, ...] = (),
        template: str = "{}",
    ) -> None:
        self._patch_options, self.scale, self.seed = options, scale, seed
        self.phase: Phase = phase
        self.name = options.name
        gt_folders = folders(options.dataroot_gt)
        check_backend(options, (*gt_folders, *lq_folders))
        self._patch = self._patch_side() if phase == "train" else 0
        with about(self.name):
            self.pairs = list_pairs(gt_folders, lq_folders, folders(options.meta_info_file), template)
        self._keeps = options.io_backend.type == "memory"
        self._kept: dict[int, Any] = {}
        self._bad: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def shares(self) -> tuple[Share, ...]:
        """What part of an epoch each folder has; empty where all images count alike."""
        weights = self._patch_options.dataroot_weights
        ratio = self._patch_options.dataset_enlarge_ratio
        return () if weights is None else shares_of(self.pairs.counts, weights, ratio)

    @property
    def epoch_length(self) -> int:
        """Samples of one epoch."""
        return epoch_length(len(self), self._patch_options.dataset_enlarge_ratio, self.shares)

    @property
    def pool_size(self) -> int:
        """No pairs are kept for later batches."""
        return 0

    def sample(self, key: SampleKey) -> Sample:
        """One training patch: lq [C, p, p], gt [C, s p, s p] with s p = ``gt_size``.

        Raises:
            InputError: its image cannot be used, and ``on_error`` is ``stop``.
        """
        batch = self.collect([key])
        lq, gt = self.finish(batch)
        pair = self.pairs[key.image]
        source = pair.lq or pair.gt
        return Sample(lq[0], gt[0], source.name, source.label, pair.gt.label)

    def collect(
        self, keys: Sequence[SampleKey], step: int = 0, reading: Callable[[str], None] | None = None
    ) -> PixelBatch:
        """The patches of batch ``step``; ``reading`` is told each file before it is read; errors as :meth:`sample`."""
        skipped: list[str] = []
        lq, gt, names = None, None, []
        floating = False
        patches = []
        for key in keys:
            patch, name = self._usable(key, skipped, reading)
            names.append(name)
            patches.append(patch)
            floating = floating or patch.gt.dtype != np.uint8
        first = patches[0]
        kind = torch.float32 if floating else torch.uint8
        gt = batch_memory((len(keys), 3, *first.gt.shape[:2]), kind)
        for place, patch in zip(gt.numpy(), patches, strict=True):
            _split(_in_units(patch.gt, floating), place)
        if first.lq is not None:
            kind = torch.uint8 if first.lq.dtype == np.uint8 else torch.float32
            lq = batch_memory((len(keys), 3, *first.lq.shape[:2]), kind)
            for place, patch in zip(lq.numpy(), patches, strict=True):
                assert patch.lq is not None
                _split(patch.lq, place)
        return PixelBatch(lq, gt, tuple(names), keys[0].epoch, step, tuple(skipped))

    def convert(self, pixels: Tensor) -> Tensor:
        """8 bit or in [0, 1], [..., 3, H, W] -> float32 [..., C, H, W]: luminance and normalised if asked for."""
        return convert(pixels, self._patch_options)

    def finish(self, batch: PixelBatch) -> tuple[Tensor, Tensor]:
        """Lq and gt as the network sees them, on the device of the batch."""
        assert batch.lq is not None
        return self.convert(batch.lq), self.convert(batch.gt)

    def preload(self) -> None:
        """With ``io_backend: memory``: decode all images that have not been, by several threads.

        Raises:
            InputError: an image cannot be used, and ``on_error`` is ``stop``.
        """
        missing = [i for i in range(len(self)) if i not in self._kept] if self._keeps else []

        def load(index: int) -> None:
            try:
                self._load(index)
            except InputError as error:
                if self._patch_options.on_error == "stop":
                    raise
                self._bad[index] = str(error)

        in_threads(load, missing, f"{self.name}: decoding")
        for message in self._bad.values():
            get_logger().warning("%s: left out: %s", self.name, message)

    def scan(self) -> tuple[str, ...]:
        """Read all images; returns what is wrong, an entry for each image that cannot be used."""
        return scan(self._load, len(self), self.name)

    @abstractmethod
    def _load(self, index: int) -> Any:
        """The pixels of image ``index``, known to be usable."""

    @abstractmethod
    def _cut(self, key: SampleKey) -> Patch:
        """The patch of a key."""

    def _usable(self, key: SampleKey, skipped: list[str], reading: Callable[[str], None] | None) -> tuple[Patch, str]:
        """The patch of a key, or of the image that takes the place of one that cannot be used; and its file."""
        for attempt in range(1, _ATTEMPTS + 1):
            label = self.pairs[key.image].gt.label
            if reading is not None:
                reading(label)
            try:
                if key.image in self._bad:
                    raise InputError(self._bad[key.image])
                return self._cut(key), label
            except InputError as error:
                problem = str(error)
                if self._patch_options.on_error == "stop":
                    raise
                if key.image not in self._bad:
                    skipped.append(problem)
                self._bad[key.image] = problem
            stream = random_stream(self.seed, key.epoch, key.position, attempt)
            key = key._replace(image=int(stream.integers(len(self))))
        raise InputError(f"{self.name}: {_ATTEMPTS} images drawn one after another cannot be used; the last: {problem}")

    def _patch_side(self) -> int:
        """Side of the low-resolution patches."""
        size = self._patch_options.gt_size
        if size is None:
            raise InputError(f"{self.name}: gt_size is missing; expected the side of the high-resolution patches")
        if size % self.scale:
            raise InputError(f"{self.name}: gt_size: expected a multiple of the scale {self.scale}, got {size}")
        return size // self.scale

    def _load_gt(self, index: int, least: int) -> Pixels:
        """The high-resolution image ``index``, of at least ``least`` pixels on each side."""
        if index in self._kept:
            kept: Pixels = self._kept[index]
            return kept
        source = self.pairs[index].gt
        image = source.read()
        if min(image.shape[:2]) < least:
            raise InputError(
                f"{source.label}: the image is {size_text(image)}, smaller than {least} x {least}; "
                f"{'choose a smaller gt_size or ' if self._patch else ''}leave the image out"
            )
        if self._keeps:
            self._kept[index] = image
        return image

    def _whole(self, index: int, lq: NDArray[Any], gt: NDArray[Any]) -> Sample:
        """Whole images [H, W, 3] as a sample."""
        pair = self.pairs[index]
        source = pair.lq or pair.gt
        return Sample(self.convert(planes(lq)), self.convert(planes(gt)), source.name, source.label, pair.gt.label)


def batch_memory(shape: Sequence[int], kind: torch.dtype) -> Tensor:
    """An empty tensor for a batch; of a worker process, in memory that it shares with the main one.

    A batch in memory of the worker's own would be copied on its way, and as PyTorch remembers a hundred batches in
    small notes that the allocator puts between them, the worker would grow by as many.
    """
    if get_worker_info() is None:
        return torch.empty(tuple(shape), dtype=kind)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * kind.itemsize)
    empty: Tensor = torch.empty(0, dtype=kind)
    return empty.set_(storage, 0, tuple(shape), torch.empty(tuple(shape), device="meta").stride())


def in_unit(image: NDArray[Any]) -> NDArray[np.float32]:
    """8 bit in 0 .. 255 -> float32 in [0, 1]; what is in [0, 1] stays."""
    return np.divide(image, 255, dtype=np.float32) if image.dtype == np.uint8 else image


def _split(image: NDArray[Any], planes: NDArray[Any]) -> None:
    """[H, W, 3] -> [3, H, W]; OpenCV takes a fifth of NumPy's time for it."""
    cv2.split(image, [*planes])


def _in_units(image: NDArray[Any], floating: bool) -> NDArray[Any]:
    return in_unit(image) if floating else image
