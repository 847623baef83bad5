"""The keys of data sets that are trained on, and what follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from data.dataset_options import DatasetOptions, folders
from data.images.listing import Pair
from data.images.pairs import ImagePairs, PairPixels
from data.patches.augment import Augmentation
from utils.errors import InputError
from utils.typed import option

LARGEST_PATCH = 65_536
"""Pixels of a side of what is cut out of images."""


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
        above=0,
        maximum=1e8,
    )
    meta_info_file: Path | tuple[Path, ...] | None = option(
        "text file that lists the images to use, one name per line; null: all images of the folder", None
    )
    gt_size: int | None = option(
        "side of the high-resolution patches, a multiple of scale; required in training",
        None,
        minimum=1,
        maximum=LARGEST_PATCH,
    )
    use_hflip: bool = option("flip patches left-right at random", True)
    use_rot: bool = option("flip patches top-bottom, and transpose them, at random", True)
    on_error: Literal["stop", "skip"] = option(
        "an image that cannot be used ends the training, or is reported once and another image takes its place (always "
        "the same one)",
        "stop",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(folders(self.dataroot_gt))
        if count == 0:
            raise InputError("dataroot_gt: expected a folder, or a list of them, got an empty list")
        if self.meta_info_file is not None and len(folders(self.meta_info_file)) != count:
            raise InputError(f"meta_info_file: expected one for each folder of dataroot_gt ({count})")
        if self.dataroot_weights is not None and len(self.dataroot_weights) != count:
            raise InputError(f"dataroot_weights: expected one number for each folder of dataroot_gt ({count})")

    @property
    def augmentation(self) -> Augmentation:
        """The random flips."""
        return Augmentation(self.use_hflip, self.use_rot)

    def patch_size(self, scale: int) -> int:
        """``gt_size``; raises InputError where it is missing or no multiple of ``scale``."""
        if self.gt_size is None:
            raise InputError(f"{self.name}: gt_size is missing; expected the side of the high-resolution patches")
        problem = gt_size_problem(self.gt_size, scale)
        if problem is not None:
            raise InputError(f"{self.name}: gt_size: {problem}")
        return self.gt_size

    def pairs(
        self,
        read: Callable[[Pair], PairPixels],
        dataroot_lq: Path | tuple[Path, ...] | None = None,
        template: str = "{}",
    ) -> ImagePairs:
        """The images; arguments and errors as :class:`data.images.pairs.ImagePairs`."""
        return ImagePairs(
            self, folders(self.dataroot_gt), folders(dataroot_lq), folders(self.meta_info_file), template, read
        )


WITHOUT_PARTNERS: Mapping[str, str] = dict.fromkeys(
    ("dataroot_lq", "filename_tmpl"), "low-resolution images are made of the high-resolution ones"
)
"""Keys without effect where there are no low-resolution files; published files have them all the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownsampledOptions(PatchOptions):
    """Of data sets that make their low-resolution patches."""

    lr_on: Literal["loader", "device"] = option(
        "where low-resolution patches are made: by the processes that prepare batches, or per batch on the device; the "
        "pixels are the same",
        "loader",
    )


def gt_size_problem(gt_size: int, scale: int) -> str | None:
    """What is wrong with a side of high-resolution patches; None where nothing is."""
    if gt_size % scale == 0:
        return None
    lower = gt_size - gt_size % scale
    sizes = f"{lower} or {lower + scale}" if lower else f"{scale}"
    return f"expected a multiple of scale {scale}, such as {sizes}, got {gt_size}"
