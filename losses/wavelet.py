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

import numpy as np
import torch
from torch import Tensor

from losses.filters import SCALING_FILTERS, Wavelet
from losses.loss import LossOptions, Reduction, check_shapes, in_full_precision
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
    height, width = images.shape[-2:]
    # Images go on periodically, so a filter is a factor of each frequency, whatever its length and that of its zeros:
    # on a CPU 7 (haar) to 17 (sym19) times as fast as convolutions of planes.
    spectrum = torch.fft.rfft2(images)[:, :, None]  # [B, C, 1, H, W // 2 + 1]
    for level in range(levels):
        of_y = _responses(wavelet, norm, level, height, images.dtype, images.device)  # [2, H]
        of_x = _responses(wavelet, norm, level, width, images.dtype, images.device)[:, : width // 2 + 1]
        response = of_x[:, None, None, :] * of_y[None, :, :, None]  # [2 along x, 2 along y, H, W // 2 + 1]
        yield torch.fft.irfft2(spectrum * response.flatten(0, 1), s=(height, width))


@functools.lru_cache(maxsize=64)
def _responses(wavelet: Wavelet, norm: bool, level: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The factors of the frequencies along an axis in a level's low-pass and high-pass bands, [2, size], complex."""
    low = np.array(SCALING_FILTERS[wavelet]) / (math.sqrt(2) if norm else 1.0)
    high = low[::-1] * (-1.0) ** np.arange(len(low))
    frequencies = np.arange(size)[:, None]
    places = np.arange(len(low)) + 1 - len(low) // 2  # of the values, from the pixel that they are for
    before = np.ones(size, dtype=complex)  # the low-pass filters of the levels before
    for finer in range(level + 1):
        # The product is taken modulo the size while it is a whole number: exact for high frequencies too.
        waves = np.exp(2j * np.pi * (frequencies * places * 2**finer % size) / size)  # [size, K]
        found = np.stack([before * (waves @ low), before * (waves @ high)])
        before = found[0]
    return torch.from_numpy(found).to(device, dtype.to_complex())
