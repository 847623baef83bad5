"""RealESRGANDataset: images degraded on the device: the training data of Real-ESRGAN, HAT-Real and ESC-Real.

What is degraded is larger than the final patches, which are cut out of the result: see
:class:`data.patches.rules.Degraded`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from data.dataset_options import whole_scale
from data.degradations import DegradationOptions
from data.degradations.kernels import KERNEL_TYPES, Blur, KernelType
from data.images.pairs import SmallestImage, read_gt
from data.patches.cutter import MirroringCutter
from data.patches.dataset import PatchDataset
from data.patches.options import LARGEST_PATCH, WITHOUT_PARTNERS, PatchOptions
from data.patches.rules import Degraded
from data.samples import EvalDataset
from utils.errors import InputError
from utils.typed import option

Range = tuple[float, float]
_LARGEST = 1000  # width or exponent of a kernel of 21 pixels
_SHARES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealESRGANOptions(PatchOptions):
    """High-resolution images with random degradations, for training only."""

    IGNORED: ClassVar[Mapping[str, str]] = {
        **{key: reason for key, reason in PatchOptions.IGNORED.items() if key != "meta_info"},
        **WITHOUT_PARTNERS,
        **dict.fromkeys(
            ("blur_kernel_size", "blur_kernel_size2"), "sides are drawn from 7, 9, ..., 21, as in published runs"
        ),
    }

    meta_info: Path | tuple[Path, ...] | None = option(
        "another name of meta_info_file, which Real-ESRGAN's files use", None
    )
    crop_size: int = option(
        "side of what is degraded; a patch of gt_size is cut out of the result", 400, minimum=1, maximum=LARGEST_PATCH
    )
    kernel_list: tuple[KernelType, ...] = option("first blur: kinds of kernels", KERNEL_TYPES)
    kernel_prob: tuple[float, ...] = option("first blur: their shares", _SHARES)
    sinc_prob: float = option("first blur: probability of a sinc kernel instead", 0.1, minimum=0, maximum=1)
    blur_sigma: Range = option("first blur: widths of kernels", (0.2, 3.0))
    betag_range: Range = option("first blur: exponents of generalised Gaussian kernels", (0.5, 4.0))
    betap_range: Range = option("first blur: exponents of plateau-shaped kernels", (1.0, 2.0))
    kernel_list2: tuple[KernelType, ...] = option("second blur: kinds of kernels", KERNEL_TYPES)
    kernel_prob2: tuple[float, ...] = option("second blur: their shares", _SHARES)
    sinc_prob2: float = option("second blur: probability of a sinc kernel instead", 0.1, minimum=0, maximum=1)
    blur_sigma2: Range = option("second blur: widths of kernels", (0.2, 1.5))
    betag_range2: Range = option("second blur: exponents of generalised Gaussian kernels", (0.5, 4.0))
    betap_range2: Range = option("second blur: exponents of plateau-shaped kernels", (1.0, 2.0))
    final_sinc_prob: float = option("probability of a sinc filter at the end", 0.8, minimum=0, maximum=1)

    def __post_init__(self) -> None:
        if self.meta_info is not None:
            if self.meta_info_file not in (None, self.meta_info):
                raise InputError("meta_info and meta_info_file are names of one key; give one of them")
            object.__setattr__(self, "meta_info_file", self.meta_info)
        super().__post_init__()
        for end in ("", "2"):
            kinds, shares = getattr(self, f"kernel_list{end}"), getattr(self, f"kernel_prob{end}")
            if len(kinds) != len(shares) or not kinds or min(shares) < 0 or sum(shares) <= 0:
                raise InputError(
                    f"kernel_prob{end}: expected a share for each kind of kernel_list{end} ({len(kinds)}), "
                    f"got {len(shares)}"
                )
            for key in (f"blur_sigma{end}", f"betag_range{end}", f"betap_range{end}"):
                low, high = getattr(self, key)
                if not 0 < low <= high <= _LARGEST:
                    expected = f"the smaller number first, above 0 and up to {_LARGEST}"
                    raise InputError(f"{key}: expected {expected}, got {low:g}, {high:g}")

    @property
    def blurs(self) -> tuple[Blur, Blur]:
        """The first and the second blur."""
        return (
            Blur(
                self.kernel_list, self.kernel_prob, self.sinc_prob, self.blur_sigma, self.betag_range, self.betap_range
            ),
            Blur(
                self.kernel_list2, self.kernel_prob2, self.sinc_prob2, self.blur_sigma2, self.betag_range2,
                self.betap_range2,
            ),
        )  # fmt: skip

    def training_set(self, scale: int, seed: int = 0, degradations: DegradationOptions | None = None) -> PatchDataset:
        """Random patches; see :meth:`data.dataset_options.DatasetOptions.training_set`."""
        size = self.patch_size(scale)
        if self.crop_size % scale or self.crop_size < size:
            raise InputError(
                f"{self.name}: crop_size: expected a multiple of scale {scale} and at least gt_size {size}, "
                f"got {self.crop_size}"
            )
        drawn = degradations or DegradationOptions()
        # One pixel cannot be mirrored.
        smallest = SmallestImage(2, "2 x 2", "choose a smaller gt_size or leave the image out")
        return PatchDataset(
            self,
            seed,
            pairs=self.pairs(partial(read_gt, smallest=smallest)),
            cutter=MirroringCutter(self.crop_size, self.augmentation),
            rule=Degraded(self.blurs, self.final_sinc_prob, drawn, size, scale, seed),
            pool_size=drawn.queue_size,
        )

    def evaluation_set(self, scale: float) -> EvalDataset:
        """Refused: low-resolution images are random."""
        whole_scale(self.name, scale)
        raise InputError(
            f"{self.name}: RealESRGANDataset makes random low-resolution images, which is for training; "
            "evaluate with PairedImageDataset or SingleImageDataset"
        )
