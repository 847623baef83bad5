"""The keys of an option file that say how images are degraded; published files have them at the top level."""

from __future__ import annotations

import dataclasses
from typing import Literal

from utils.checked import Checked
from utils.errors import InputError
from utils.typed import option

Range = tuple[float, float]
_LARGEST_FACTOR, _LARGEST_NOISE = 16, 1000  # an image of 400 pixels has 6,400 then; grey levels


@dataclasses.dataclass(frozen=True, kw_only=True)
class DegradationOptions(Checked):
    """What RealESRGANDataset does to images on the device; other data sets have no use for it."""

    gt_usm: bool = option("the target is sharpened, and what is degraded too", False)
    lq_usm: bool = option("what is degraded is sharpened, even where the target is not", False)
    resize_prob: tuple[float, float, float] = option("first stage: probabilities of up, down, keep", (0.2, 0.7, 0.1))
    resize_range: Range = option("first stage: factors between which images are resized", (0.15, 1.5))
    gaussian_noise_prob: float = option(
        "first stage: probability of Gaussian noise instead of Poisson noise", 0.5, minimum=0, maximum=1
    )
    noise_range: Range = option("first stage: deviations of Gaussian noise, levels of 0 to 255", (1.0, 30.0))
    poisson_scale_range: Range = option("first stage: factors of Poisson noise", (0.05, 3.0))
    gray_noise_prob: float = option(
        "first stage: probability of the same noise in all channels", 0.4, minimum=0, maximum=1
    )
    jpeg_range: Range = option("first stage: JPEG qualities, 0 to 100", (30.0, 95.0))
    second_blur_prob: float = option("second stage: probability of blur", 0.8, minimum=0, maximum=1)
    resize_prob2: tuple[float, float, float] = option("second stage: as resize_prob", (0.3, 0.4, 0.3))
    resize_range2: Range = option("second stage: as resize_range", (0.3, 1.2))
    gaussian_noise_prob2: float = option("second stage: as gaussian_noise_prob", 0.5, minimum=0, maximum=1)
    noise_range2: Range = option("second stage: as noise_range", (1.0, 25.0))
    poisson_scale_range2: Range = option("second stage: as poisson_scale_range", (0.05, 2.5))
    gray_noise_prob2: float = option("second stage: as gray_noise_prob", 0.4, minimum=0, maximum=1)
    jpeg_range2: Range = option("second stage: as jpeg_range", (30.0, 95.0))
    jpeg_tables: Literal["published", "standard"] = option(
        "published: quantisation tables with rows and columns exchanged, as the published Real networks were trained; "
        "standard: as a JPEG encoder has them",
        "published",
    )
    queue_size: int = option(
        "pairs that each process keeps and mixes into later batches, a multiple of batch_size_per_gpu; 0: none",
        180,
        minimum=0,
        maximum=1_000_000,
    )
    high_order_degradation: bool = option(
        "false: the data are pairs of images, of another data set; RealESRGANDataset always degrades", True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("resize_prob", "resize_prob2"):
            shares = getattr(self, name)
            if min(shares) < 0 or sum(shares) <= 0:
                raise InputError(f"{name}: expected probabilities of up, down and keep, got {list(shares)}")
        for name in ("resize_range", "resize_range2"):
            low, high = getattr(self, name)
            if not 0 < low <= 1 <= high <= _LARGEST_FACTOR:
                expected = f"two factors around 1, up to {_LARGEST_FACTOR}, as in [0.15, 1.5]"
                raise InputError(f"{name}: expected {expected}, got [{low:g}, {high:g}]")
        for name in ("noise_range", "poisson_scale_range", "jpeg_range"):
            for key in (name, f"{name}2"):
                low, high = getattr(self, key)
                if not 0 <= low <= high <= _LARGEST_NOISE:
                    expected = f"the smaller number first, none below 0 or above {_LARGEST_NOISE}"
                    raise InputError(f"{key}: expected {expected}, got [{low:g}, {high:g}]")
        for key in ("jpeg_range", "jpeg_range2"):
            low, high = getattr(self, key)
            if not 0 < low <= high <= 100:
                raise InputError(f"{key}: expected qualities above 0 and up to 100, got [{low:g}, {high:g}]")

    def stage(self, second: bool) -> Stage:
        """The keys of one stage, without the suffix."""
        end = "2" if second else ""
        return Stage(**{field.name: getattr(self, field.name + end) for field in dataclasses.fields(Stage)})


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of the two rounds of degradation; the fields are explained in :class:`DegradationOptions`."""

    resize_prob: tuple[float, float, float]
    resize_range: Range
    gaussian_noise_prob: float
    noise_range: Range
    poisson_scale_range: Range
    gray_noise_prob: float
    jpeg_range: Range
