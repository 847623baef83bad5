"""PSNR of networks for any scale as LIIF, LTE and their followers publish it: of unrounded outputs.

Unlike in the usual one (:mod:`metrics.psnr_ssim`), the output is not rounded to 8 bits, and the weights of the colour
difference, which becomes grey before it is squared, are divided by 256 instead of 255.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from metrics.metric import Metric, Output, require
from utils.devices import exact_device
from utils.errors import InputError
from utils.typed import option

Protocol = Literal["benchmark", "div2k", "none"]

_GRAY = (65.738 / 256, 129.057 / 256, 25.064 / 256)
_SURPLUS = 6  # pixels of the border of div2k beside the scale


def calculate_psnr_any_scale(img: Tensor, img2: Tensor, scale: float, protocol: Protocol = "benchmark") -> float:
    """PSNR in dB with the peak 1; infinity for equal images.

    Args:
        img: floats [3, H, W] in [0, 1], R G B, not rounded.
        img2: the true image, of the same shape.
        scale: high-resolution size / low-resolution size.
        protocol: "benchmark": the difference as grey, without ``scale`` pixels at each border; "div2k": of R, G and B,
            without ``scale + 6`` pixels; "none": of R, G and B, of the whole image. Of a scale that is not whole, the
            next whole number counts.

    Raises:
        ValueError: the tensors are no images of one shape, or hold NaN or infinity.
        InputError: they are too small.
    """
    if img.shape != img2.shape or img.ndim != 3 or len(img) != 3 or not img.is_floating_point():
        raise ValueError(f"expected floats [3, H, W] of one shape, got {list(img.shape)} and {list(img2.shape)}")
    border = border_of(protocol, scale)
    H, W = img.shape[-2:]
    if min(H, W) <= 2 * border:
        raise InputError(
            f"an image of {W} x {H} pixels (width x height) is too small to be measured: at x{scale:g}, the protocol "
            f"{protocol} leaves out {border} pixels at each border"
        )
    inside = (slice(None), slice(border, H - border), slice(border, W - border))
    a, b = (image[inside].to(exact_device(image.device), torch.float64) for image in (img, img2))
    difference = a - b
    if protocol == "benchmark":
        difference = torch.einsum("chw,c->hw", difference, difference.new_tensor(_GRAY))
    mse = float(difference.square().mean())
    if not math.isfinite(mse):
        raise ValueError("the images hold NaN or infinity: no score may be made of them")
    return -10.0 * math.log10(mse) if mse > 0 else math.inf


def border_of(protocol: Protocol, scale: float) -> int:
    """Pixels that a protocol leaves out at each border of images of a scale."""
    return {"benchmark": math.ceil(scale), "div2k": math.ceil(scale) + _SURPLUS, "none": 0}[protocol]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyScalePSNR(Metric):
    """PSNR of unrounded outputs in dB, as networks for any scale publish it; the border follows from the scale."""

    protocol: Protocol = option(
        "benchmark: of the grey value of the difference, without as many pixels at each border as the scale; div2k: of "
        "R, G and B, without 6 pixels more; none: of R, G and B, of the whole image"
    )

    def border_at(self, scale: float) -> int:
        """See :class:`metrics.metric.Metric`."""
        return border_of(self.protocol, scale)

    def of_output(self, output: Output) -> float:
        """See :class:`metrics.metric.Metric`."""
        return calculate_psnr_any_scale(output.values, require(output.true_values), output.scale, self.protocol)
