"""The distance of Fourier spectra.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor

from losses.loss import LossOptions, Reduction, check_shapes, in_full_precision
from utils.typed import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class FFTLoss(LossOptions):
    """Mean absolute difference of the real and imaginary parts of the two-dimensional Fourier spectra."""

    norm: Literal["backward", "ortho"] = option(
        "scale of the spectra: backward: plain sums, which grow with the image; ortho: divided by sqrt(H W), so that "
        "the loss is of the size of an L1 loss",
        "backward",
    )

    def build(self, device: torch.device) -> SpectralDistance:
        """The loss; it holds no weights, so it works on every device."""
        return SpectralDistance(self)


@dataclasses.dataclass(frozen=True)
class SpectralDistance:
    """What :class:`FFTLoss` describes."""

    options: FFTLoss
    reduction: ClassVar[Reduction] = "mean"

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of [B, C, H, W] against the same shape, a scalar, in float32 at least.

        Raises:
            ValueError: the shapes differ.
        """
        check_shapes(prediction, target)
        prediction, target = in_full_precision(prediction, target)
        # The transform is linear: one of the difference does for both. [B, C, H, W // 2 + 1], complex.
        spectrum = torch.fft.rfft2(prediction - target, norm=self.options.norm)
        return self.options.loss_weight * torch.view_as_real(spectrum).abs().mean()
