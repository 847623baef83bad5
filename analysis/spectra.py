"""Which frequencies features have, over depth, and the error of the output.

Park and Kim, How Do Vision Transformers Work?, ICLR 2022: log-amplitudes along the diagonal of the spectrum, relative
to those of frequency zero. A curve that falls more is that of features that are more of a low-pass.

Shapes: B images, C channels, h w pixels, S the side of the central even square.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.features import each_map
from analysis.subjects import forward
from data import imresize
from utils.devices import exact_device
from utils.errors import InputError

OFFSET = 1e-6
"""Added to amplitudes before the logarithm."""
LEAST = 4
"""The least side of a map."""


@dataclass(frozen=True)
class Curve:
    """Log-amplitudes along the diagonal, from frequency 0 on.

    Attributes:
        frequencies: in radians per pixel, 0 to below pi, [S / 2].
        amplitudes: mean natural logarithm, [S / 2].
    """

    frequencies: NDArray[np.float64]
    amplitudes: NDArray[np.float64]

    @property
    def relative(self) -> NDArray[np.float64]:
        """Less the first one: what is drawn of features."""
        return np.asarray(self.amplitudes - self.amplitudes[0], np.float64)


@dataclass
class CurveMean:
    """Averages log-amplitudes over images and channels, of maps of one size."""

    total: NDArray[np.float64] | None = None
    images: int = 0

    def add(self, features: Tensor) -> None:
        """Maps [B, C, h, w], of which the central even square is taken.

        Raises:
            InputError: they are smaller than LEAST, or of another size than those before.
        """
        amplitudes = log_amplitudes(features)
        if self.total is not None and len(self.total) != len(amplitudes):
            raise InputError(
                f"curves are averaged over maps of one size; the central squares have sides {2 * len(self.total)} "
                f"and {2 * len(amplitudes)}"
            )
        summed = amplitudes * len(features)
        self.total = summed if self.total is None else self.total + summed
        self.images += len(features)

    @property
    def curve(self) -> Curve:
        """The mean.

        Raises:
            InputError: nothing was added.
        """
        if self.total is None:
            raise InputError("no images: a curve needs at least one")
        half = len(self.total)
        return Curve(np.arange(half) * np.pi / half, self.total / self.images)


def log_amplitudes(features: Tensor) -> NDArray[np.float64]:
    """The diagonal of the mean log-amplitude spectrum, from its centre on: [B, C, h, w] -> [S / 2].

    Raises:
        InputError: the maps are smaller than LEAST.
    """
    side = min(features.shape[-2:]) // 2 * 2
    if side < LEAST:
        raise InputError(f"frequencies need maps of at least {LEAST} x {LEAST} pixels, got {list(features.shape[-2:])}")
    top, left = ((length - side) // 2 for length in features.shape[-2:])
    square = features[..., top : top + side, left : left + side].detach()
    steps = torch.arange(side // 2, device=square.device)
    total = torch.zeros(side // 2, dtype=torch.float64)
    for image in square:  # one at a time: spectra are complex and in float64
        spectrum = torch.fft.fft2(image.to(exact_device(image.device), torch.float64))
        # Shifting frequency 0 to the centre would leave this diagonal where it is: it starts there.
        diagonal = spectrum[..., steps.to(spectrum.device), steps.to(spectrum.device)]
        total += (diagonal.abs() + OFFSET).log().mean(0).cpu()
    return np.asarray((total / len(square)).numpy(), np.float64)


@dataclass(frozen=True)
class Depth:
    """Curves of a network's modules in depth order.

    Attributes:
        names: of modules.
        curves: of each.
        images: over which they are averaged.
    """

    names: tuple[str, ...]
    curves: tuple[Curve, ...]
    images: int = field(default=0)


def spectra_over_depth(network: nn.Module, names: Sequence[str], batches: Iterable[Tensor]) -> Depth:
    """The curve of each module; of features nothing is kept but their curves.

    Args:
        network: the network.
        names: of modules in depth order.
        batches: of images [B, c, h, w] of one size.

    Raises:
        InputError: a module makes no map, or too small a one.
    """
    means = {name: CurveMean() for name in names}
    images = 0
    for batch in batches:
        each_map(network, batch, names, lambda name, features: means[name].add(features))
        images += len(batch)
    return Depth(tuple(names), tuple(means[name].curve for name in names), images)


def error_curve(network: nn.Module, lr: Iterable[Tensor], hr: Iterable[NDArray[np.uint8]]) -> Curve:
    """Log-amplitudes of SR - HR, images in [0, 1] and the network's output clamped to that.

    Args:
        network: the network.
        lr: batches of images [B, c, h, w] of one size.
        hr: what they were made from, uint8 [B, H, W, 3].

    Raises:
        InputError: there are none.
    """
    mean = CurveMean()
    for x, truth in zip(lr, hr, strict=True):
        with torch.no_grad():
            sr = forward(network, x).clamp(0, 1)
        mean.add(sr - _like(truth, sr))
    return mean.curve


def upsampling_error_curve(lr: Iterable[Tensor], hr: Iterable[NDArray[np.uint8]], scale: int) -> Curve:
    """The same of MATLAB's bicubic upsampling; batches as for :func:`error_curve`."""
    mean = CurveMean()
    for x, truth in zip(lr, hr, strict=True):
        sr = imresize(x, float(scale)).clamp(0, 1)
        mean.add(sr - _like(truth, sr))
    return mean.curve


def _like(truth: NDArray[np.uint8], sr: Tensor) -> Tensor:
    """HR pictures [B, H, W, 3] as an output [B, c, H, W] is; one channel is the mean."""
    exact = torch.from_numpy(truth).permute(0, 3, 1, 2).to(sr.device, sr.dtype) / 255
    return exact.mean(1, keepdim=True) if sr.shape[1] == 1 else exact


def thirds(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Means of a curve's values over the lowest, the middle and the highest third of its frequencies."""
    low, middle, high = (float(part.mean()) for part in np.array_split(values, 3))
    return low, middle, high
