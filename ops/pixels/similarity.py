"""What PSNR and SSIM are computed from, by compiled kernels of this project: ops/csrc/similarity_cpu.cpp.

The functions of metrics/ on arrays define them, serve where there are no kernels, and decide when these are worth it.

Shapes: P planes, H W pixels, T taps of the window.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops import build
from ops.registration import register
from ops.registry import REFERENCE, environment_choice


class SsimArguments(NamedTuple):
    """The arguments of ``focalsr::ssim_sums``."""

    a: Tensor  # [P, H, W] float32
    b: Tensor  # [P, H, W] float32
    taps: Tensor  # [T] float64, of the window along each axis
    first: float  # constants that keep the quotients finite
    second: float


class LumaArguments(NamedTuple):
    """The arguments of ``focalsr::luma_of_levels``."""

    image: Tensor  # [H, W, 3] uint8, of dense rows
    tables: Tensor  # [3, 256] float64, what the levels of R, G and B add
    offset: float


def has_similarity_kernels() -> bool:
    """Whether the kernels are to be used and can be; compiles them at the first call."""
    return environment_choice() != REFERENCE and build.cpu_extension("similarity") is None


def ssim_sums(a: Tensor, b: Tensor, taps: Tensor, constants: tuple[float, float]) -> Tensor:
    """The sum of SSIM over all positions that the window covers fully: planes [P, H, W] float32 -> [P] float64."""
    out: Tensor = torch.ops.focalsr.ssim_sums(*SsimArguments(a, b, taps, *constants))
    return out


def luma_of_levels(image: Tensor, tables: Tensor, offset: float) -> Tensor:
    """:func:`metrics.color.luma` to the bit: [H, W, 3] uint8 of dense rows -> [H, W] float32."""
    out: Tensor = torch.ops.focalsr.luma_of_levels(*LumaArguments(image, tables, offset))
    return out


def _fake_ssim(arguments: SsimArguments) -> Tensor:
    return arguments.taps.new_empty(arguments.a.shape[0])


def _ssim_flops(sizes: Any) -> int:
    """Of the two passes over four maps."""
    return int(2 * 4 * 2 * math.prod(sizes.a) * sizes.taps[0])


def _fake_luma(arguments: LumaArguments) -> Tensor:
    return arguments.image.new_empty(arguments.image.shape[:2], dtype=torch.float32)


register("ssim_sums", SsimArguments, "Tensor", fake=_fake_ssim, flops=_ssim_flops)
register("luma_of_levels", LumaArguments, "Tensor", fake=_fake_luma)
