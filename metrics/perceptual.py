"""LPIPS and DISTS, measured by the library pyiqa where it is installed; lower is better.

Both compare features of networks trained on photographs (Zhang et al., CVPR 2018; Ding et al., TPAMI 2020). The
library fetches their weights the first time, so that a machine without a connection needs them in its cache.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from metrics.arrays import as_hwc, crop
from metrics.color import Image
from metrics.metric import LevelMetric, UndefinedScoreError, require
from utils.devices import CHOICES, check_name, choose
from utils.errors import InputError
from utils.typed import option

LIBRARY = "pyiqa"

Judge = Callable[[Tensor, Tensor], Tensor]
_IGNORED = {**LevelMetric.IGNORED, "test_y_channel": "its features are of R G B images"}
_BORDER = "pixels of the high-resolution image dropped on each side; usually 0 for this metric"
_DEVICE = f"where the metric's network runs: {CHOICES}; auto: an accelerator if there is one"


def perceptual_distance(name: str, img: Image, img2: Image, crop_border: int = 0, device: str = "auto") -> float:
    """The distance of two images by one of the library's metrics.

    Args:
        name: as the library calls it: "lpips" (AlexNet), "lpips-vgg", "dists".
        img: uint8 [H, W, 3] R G B.
        img2: the true image, of the same shape.
        crop_border: pixels dropped on each side.
        device: where the metric's network runs, as ``--device`` names it; "auto": an accelerator if there is one.

    Raises:
        ValueError: the arrays are no images of one shape, or hold NaN or infinity.
        UndefinedScoreError: the metric's network gives no number.
        InputError: the library is not installed, there is no such device, or nothing is left after dropping the
            border.
    """
    if img.shape != img2.shape:
        raise ValueError(f"the images must have one shape, got {list(img.shape)} and {list(img2.shape)}")
    pair = [crop(as_hwc(image, "HWC", role), crop_border) for image, role in ((img, "img"), (img2, "img2"))]
    if not pair[0].size:
        raise InputError(f"an image of {list(img.shape)} (H, W, C) is too small for crop_border {crop_border}")
    check_library(name)
    place = choose(device, option="device of the metric")
    judge = _judge(importlib.import_module(LIBRARY), name, place)
    with torch.no_grad():
        distance = float(judge(*(_tensor(image, place) for image in pair)).item())
    if not math.isfinite(distance):
        raise UndefinedScoreError(f"{name} gives {distance} for this image")
    return distance


def check_library(name: str) -> None:
    """Raise InputError where the library that measures ``name`` is not installed."""
    if importlib.util.find_spec(LIBRARY) is None:
        raise InputError(f"{name} is measured by the library {LIBRARY}; pip install {LIBRARY}, or leave the metric out")


def _tensor(image: Image, device: torch.device) -> Tensor:
    """uint8 [H, W, 1 or 3] -> float32 [1, 3, H, W] in [0, 1]."""
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    return planes.to(device, torch.float32).div(255).expand(1, 3, -1, -1)


@functools.lru_cache(maxsize=4)
def _judge(library: Any, name: str, device: torch.device) -> Judge:
    """The metric's network, loaded once."""
    judge: Judge = library.create_metric(name, device=device)
    return judge


@dataclasses.dataclass(frozen=True, kw_only=True)
class LPIPS(LevelMetric):
    """Distance of deep features (LPIPS); needs pyiqa."""

    IGNORED: ClassVar[Mapping[str, str]] = _IGNORED

    better: Literal["higher", "lower"] = option("which direction counts as better when the best is recorded", "lower")
    crop_border: int = option(_BORDER, 0, minimum=0)
    net: Literal["alex", "vgg"] = option("whose features: AlexNet's or VGG's", "alex")
    device: str = option(_DEVICE, "auto")

    def __post_init__(self) -> None:
        """Look for the library now: its absence should show before the training, not at its first validation."""
        super().__post_init__()
        check_name(self.device, "device of the metric")
        check_library("LPIPS")

    def __call__(self, image: Image, reference: Image | None = None) -> float:
        """LPIPS of uint8 [H, W, 3] R G B against its true image."""
        name = "lpips" if self.net == "alex" else "lpips-vgg"
        return perceptual_distance(name, image, require(reference), self.crop_border, self.device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DISTS(LevelMetric):
    """Similarity of structure and texture in deep features (DISTS); needs pyiqa."""

    IGNORED: ClassVar[Mapping[str, str]] = _IGNORED

    better: Literal["higher", "lower"] = option("which direction counts as better when the best is recorded", "lower")
    crop_border: int = option(_BORDER, 0, minimum=0)
    device: str = option(_DEVICE, "auto")

    def __post_init__(self) -> None:
        """Look for the library now: its absence should show before the training, not at its first validation."""
        super().__post_init__()
        check_name(self.device, "device of the metric")
        check_library("DISTS")

    def __call__(self, image: Image, reference: Image | None = None) -> float:
        """DISTS of uint8 [H, W, 3] R G B against its true image."""
        return perceptual_distance("dists", image, require(reference), self.crop_border, self.device)
