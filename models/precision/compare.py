"""What a network loses in half precision: its images against those of float32."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Loss:
    """The images of a network against those of the same network in float32, over all pictures.

    Attributes:
        finite: no image holds NaN or infinity; the other figures are of those that do not.
        psnr: of 8-bit images in dB, infinite where they are equal.
        levels: the largest difference of 8-bit images, 0 .. 255.
        changed: share of the values that differ.
        seconds: of all pictures, 0 where it was not measured.
    """

    finite: bool
    psnr: float
    levels: int
    changed: float
    seconds: float


def loss_of(images: Sequence[Tensor], reference: Sequence[Tensor], seconds: float = 0.0) -> Loss:
    """Compare images [3, H, W] in [0, 1], each pair of one size."""
    squares = worst = changed = count = 0.0
    finite = True
    for image, true in zip(images, reference, strict=True):
        if not bool(image.isfinite().all()):
            finite = False
            continue
        difference = (_levels(image) - _levels(true)).abs()
        squares += float(difference.double().square().sum())
        worst = max(worst, float(difference.max()))
        changed += float((difference > 0).sum())
        count += difference.numel()
    mean = squares / max(1.0, count)
    psnr = math.inf if mean == 0 else 10 * math.log10(255**2 / mean)
    return Loss(finite, psnr, int(worst), changed / max(1.0, count), seconds)


def timed_images(
    network: nn.Module, run: Callable[[nn.Module], Sequence[Tensor]], *, repeat: bool = True
) -> tuple[list[Tensor], float]:
    """The images of a network, and the seconds that it took; ``repeat``: the second time, when all is warm."""
    with torch.no_grad():
        started = time.perf_counter()
        images = [image.float().cpu() for image in run(network)]
        if repeat:
            started = time.perf_counter()
            run(network)
    return images, time.perf_counter() - started


def _levels(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round()
