"""The distance of stationary wavelet bands.

The transform is the undecimated one ("a trous": Holschneider et al., 1989; Shensa, IEEE Transactions on Signal
Processing 1992) as PyWavelets defines it (``swt2``): level j uses filters with 2^(j-1) - 1 zeros between their values,
and images go on periodically beyond their borders. Shapes: B images, C channels, H W pixels, K values of a filter.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.filters import SCALING_FILTERS, Wavelet
from losses.loss import LossOptions, Reduction, check_shapes, in_full_precision
from ops.autocast import without_autocast
from utils.errors import InputError
from utils.typed import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveletLoss(LossOptions):
    """Mean absolute differences of the bands of the stationary (undecimated) wavelet transform, weighted and added."""

    wavelet: Wavelet = option("the filters, by PyWavelets' names", "haar")
    levels: int = option(
        "how often the low-pass band is split again, each time at twice the scale", 1, minimum=1, maximum=8
    )
    band_weights: tuple[float, float, float, float] = option(
        "factors of the bands LL, LH, HL, HH; LL is that of the last level, the others are those of every level. LH: "
        "low-pass along x, high-pass along y, hence horizontal edges (PyWavelets' cH)",
        (1.0, 1.0, 1.0, 1.0),
        minimum=0,
        maximum=1e6,
    )
    norm: bool = option(
        "filters divided by sqrt(2), so that the bands do not grow with the level; PyWavelets' option of this name",
        False,
    )

    def __post_init__(self) -> None:
        """Look at the factors together."""
        super().__post_init__()
        if not any(self.band_weights):
            raise InputError("band_weights: none is above 0: the loss would never act; leave it out")

    def build(self, device: torch.device) -> WaveletDistance:
        """The loss; it holds no weights, so it works on every device."""
        return WaveletDistance(self)


@dataclasses.dataclass(frozen=True)
class WaveletDistance:
    """What :class:`WaveletLoss` describes."""

    options: WaveletLoss
    reduction: ClassVar[Reduction] = "mean"

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of [B, C, H, W] against the same shape, a scalar, in float32 at least.

        Raises:
            ValueError: the shapes differ.
        """
        check_shapes(prediction, target)
        prediction, target = in_full_precision(prediction, target)
        options = self.options
        # The transform is linear: one of the difference does for both.
        levels = stationary_bands(prediction - target, options.wavelet, options.levels, norm=options.norm)
        total = prediction.new_zeros(())
        for level, bands in enumerate(levels, start=1):
            of_low, *of_details = options.band_weights
            factors = (of_low if level == options.levels else 0.0, *of_details)
            for factor, band in zip(factors, bands.unbind(2), strict=True):
                if factor:
                    total = total + factor * band.abs().mean()
        return options.loss_weight * total


def stationary_bands(images: Tensor, wavelet: Wavelet, levels: int, *, norm: bool = False) -> Iterator[Tensor]:
    """The bands of the stationary wavelet transform, from the first level on.

    Args:
        images: [B, C, H, W] of any size, float32 or float64.
        wavelet: a key of :data:`SCALING_FILTERS`.
        levels: how often the low-pass band is split.
        norm: filters divided by sqrt(2).

    Yields:
        [B, C, 4, H, W] for each level: LL, LH, HL, HH, of which PyWavelets says cA, cH, cV, cD.
    """
    filters = _filters(wavelet, norm, images.dtype, images.device)
    low = images
    for level in range(levels):
        bands = _split(low, filters, 2**level)
        yield bands
        low = bands[:, :, 0]


@functools.lru_cache(maxsize=8)
def _filters(wavelet: Wavelet, norm: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Low-pass and high-pass filter, [2, K], as a convolution of torch takes them."""
    low = [value / math.sqrt(2) if norm else value for value in SCALING_FILTERS[wavelet]]
    high = [-value if place % 2 else value for place, value in enumerate(reversed(low))]
    return torch.tensor([low, high], dtype=dtype, device=device)


def _split(images: Tensor, filters: Tensor, step: int) -> Tensor:
    """Both filters along both axes, ``step`` pixels between their values: [B, C, H, W] -> [B, C, 4, H, W]."""
    length = filters.shape[1]
    before, after = (length // 2 - 1) * step, length // 2 * step
    with without_autocast(images.device):
        planes = _continued(images.flatten(0, 1)[:, None], 2, before, after)  # [B*C, 1, before + H + after, W]
        rows = F.conv2d(planes, filters[:, None, :, None], dilation=(step, 1))  # [B*C, 2 along y, H, W]
        rows = _continued(rows.flatten(0, 1)[:, None], 3, before, after)  # [B*C*2, 1, H, before + W + after]
        both = F.conv2d(rows, filters[:, None, None, :], dilation=(1, step))  # [B*C*2, 2 along x, H, W]
    bands: Tensor = both.unflatten(0, (*images.shape[:2], 2))  # [B, C, 2 along y, 2 along x, H, W]
    return bands.transpose(2, 3).flatten(2, 3)  # LL, LH (low along x, high along y), HL, HH


def _continued(planes: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Images that go on periodically along an axis, however far."""
    size = planes.shape[axis]
    head, tail = planes.narrow(axis, 0, after % size), planes.narrow(axis, size - before % size, before % size)
    return torch.cat([tail, *[planes] * (before // size + 1 + after // size), head], dim=axis)
