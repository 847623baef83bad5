"""AnyScaleDataset: patches of scales that are drawn, for networks for any scale; and whole images at any scale.

Low-resolution images are made by 8-bit bicubic downscaling as the Pillow library does it, of patches and of whole
images, unless the data set names files of a scale.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from data.dataset_options import folders
from data.datasets.paired import template_problem
from data.degradations import DegradationOptions
from data.images.pairs import SmallestImage, read_gt
from data.patches.any_scale import AnyScaleCutter, DownsampledWhenCut
from data.patches.dataset import PatchDataset
from data.patches.options import LARGEST_PATCH, PatchOptions
from data.whole import WholeImages, read_any_scale
from utils.errors import InputError
from utils.scale import as_scale
from utils.typed import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyScaleOptions(PatchOptions):
    """High-resolution images; the scale of each training patch is drawn from the file's ``scale``."""

    gt_size: int | None = option(
        "leave it out: the side of the high-resolution patches is lq_size times the scale that is drawn", None
    )
    lq_size: int = option("side of the low-resolution patches", 64, minimum=1, maximum=LARGEST_PATCH)
    sample_q: int | None = option(
        "pixels of each high-resolution patch that the network is asked for, drawn without replacement; at most as "
        "many as the smallest patch has. null: all, where scale is one number",
        2304,
        minimum=1,
        maximum=LARGEST_PATCH**2,
    )
    dataroot_lq: Mapping[str, Path | tuple[Path, ...]] = option(
        "in validation and tests: scale -> folder of low-resolution images, as in {2: X2, 3: X3}; those of other "
        "scales are made of the high-resolution ones",
        default_factory=dict,
    )
    filename_tmpl: str = option(
        "with dataroot_lq: name of a low-resolution image, {} standing for the high-resolution one's, without "
        "extension, and {scale} for the scale",
        "{}",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gt_size is not None:
            raise InputError(
                f"gt_size: leave it out: AnyScaleDataset cuts patches of lq_size ({self.lq_size}) low-resolution "
                "pixels, times the scale that is drawn"
            )
        problem = template_problem(self.filename_tmpl.replace("{scale}", ""))
        if problem is not None:
            raise InputError(f"filename_tmpl: {problem}")
        count = len(folders(self.dataroot_gt))
        for key, roots in self.dataroot_lq.items():
            if _number(key) is None:
                raise InputError(f'dataroot_lq: expected a mapping from scales to folders, got the key "{key}"')
            if sum(_number(other) == _number(key) for other in self.dataroot_lq) > 1:
                raise InputError(f"dataroot_lq: expected each scale once, got {', '.join(self.dataroot_lq)}")
            if len(folders(roots)) != count:
                raise InputError(f"dataroot_lq: {key}: expected one for each folder of dataroot_gt ({count})")

    def training_set(
        self,
        scale: int | float | tuple[float, float],
        seed: int = 0,
        degradations: DegradationOptions | None = None,
    ) -> PatchDataset:
        """Random patches; see :meth:`data.dataset_options.DatasetOptions.training_set`.

        Args:
            scale: the least and the largest scale that is drawn, or the only one.
            seed: as there.
            degradations: without effect.
        """
        low, high = scale if isinstance(scale, tuple) else (scale, scale)
        if self.dataroot_lq:
            raise InputError(
                f"{self.name}: dataroot_lq: low-resolution patches for training are made of the high-resolution ones; "
                "leave the key out"
            )
        problem = query_problem(self.lq_size, self.sample_q, low, high)
        if problem is not None:
            raise InputError(f"{self.name}: sample_q: {problem}")
        least = round(self.lq_size * low)
        smallest = SmallestImage(
            least, f"the smallest patches (lq_size {self.lq_size} at x{low:g})",
            "choose a smaller lq_size or leave the image out",
        )  # fmt: skip
        return PatchDataset(
            self,
            seed,
            pairs=self.pairs(partial(read_gt, smallest=smallest)),
            cutter=AnyScaleCutter(self.lq_size, (low, high), self.sample_q, self.augmentation),
            rule=DownsampledWhenCut(),
        )

    def evaluation_set(self, scale: float) -> WholeImages:
        """Whole images; see :meth:`data.dataset_options.DatasetOptions.evaluation_set`."""
        scale = as_scale(scale)
        template = self.filename_tmpl.replace("{scale}", f"{scale:g}")
        read = partial(read_any_scale, scale=scale, strict=True)
        return WholeImages(self, scale, self.pairs(read, self.given(scale), template))

    def given(self, scale: float) -> Path | tuple[Path, ...] | None:
        """The folders of low-resolution images of a scale; None where they are made."""
        return next((roots for key, roots in self.dataroot_lq.items() if _number(key) == scale), None)


def query_problem(lq_size: int, sample_q: int | None, low: float, high: float) -> str | None:
    """What is wrong with ``sample_q`` for patches of ``lq_size`` at scales from ``low`` to ``high``; None: nothing."""
    if sample_q is None:
        if low == high:
            return None
        return f"expected a number, as the patches of a batch differ in size from x{low:g} to x{high:g}, got null"
    most = round(lq_size * low) ** 2
    if sample_q <= most:
        return None
    return f"expected at most {most:,}, the pixels of a patch at x{low:g} (lq_size {lq_size}), got {sample_q:,}"


def _number(text: str) -> float | None:
    """The scale that a text names; None: it names none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 1 <= number < math.inf else None
