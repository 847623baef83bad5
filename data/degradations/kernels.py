"""Blur kernels, and how they are drawn.

Shapes: n odd side of a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from utils.checked import check_choice

Kernel = NDArray[np.float64]
KernelType = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
KERNEL_TYPES: tuple[KernelType, ...] = get_args(KernelType)
SIDE = 21  # of the array that holds a kernel of any size
SIZES = tuple(range(7, SIDE + 1, 2))


def blur_kernel(
    kind: KernelType, size: int, sigma_x: float, sigma_y: float | None = None, theta: float = 0.0, beta: float = 1.0
) -> Kernel:
    """A normalised kernel [size, size].

    With S = R(theta) diag(sigma_x^2, sigma_y^2) R(theta)^T and q = v^T S^-1 v for the offset v = (x, y) from the
    centre, x along columns: Gaussian exp(-q / 2), generalised exp(-q^beta / 2), plateau 1 / (1 + q^beta).

    Args:
        kind: shape; those that end in "iso" but not in "aniso" have sigma_y = sigma_x.
        size: odd side.
        sigma_x: width along the first axis.
        sigma_y: width along the second axis; None: as the first.
        theta: angle of the axes.
        beta: exponent; only generalised and plateau kernels look at it.
    """
    check_choice("blur_kernel: kind", kind, KernelType)
    widths = np.array([sigma_x, sigma_y if kind.endswith("aniso") and sigma_y is not None else sigma_x])
    turn = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    inverse = turn @ np.diag(widths**-2) @ turn.T
    offsets = np.arange(size) - (size - 1) / 2
    v = np.stack(np.meshgrid(offsets, offsets), axis=-1)  # [n, n, 2], x first
    q = np.einsum("...i,ij,...j", v, inverse, v)
    if kind.startswith("plateau"):
        kernel = 1 / (1 + q**beta)
    else:
        kernel = np.exp(-0.5 * (q**beta if kind.startswith("generalized") else q))
    return np.asarray(kernel / kernel.sum())


def sinc_kernel(size: int, cutoff: float) -> Kernel:
    """The circular low-pass filter with ``cutoff`` in radians per pixel, which rings; [size, size], normalised."""
    offsets = np.arange(size) - (size - 1) / 2
    radius = np.hypot(*np.meshgrid(offsets, offsets))
    bessel = torch.special.bessel_j1(torch.from_numpy(cutoff * radius)).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        kernel = np.where(radius == 0, cutoff**2 / (4 * math.pi), cutoff * bessel / (2 * math.pi * radius))
    return np.asarray(kernel / kernel.sum())


def padded(kernel: Kernel) -> Kernel:
    """``kernel`` in the middle of zeros, [SIDE, SIDE]."""
    return np.pad(kernel, (SIDE - kernel.shape[0]) // 2)


class Blur(NamedTuple):
    """What random blur kernels are drawn from.

    Attributes:
        kinds: shapes, drawn with probabilities in proportion to ``shares``.
        shares: one for each of them.
        sinc_prob: probability of a sinc instead.
        sigma: widths.
        beta_generalized: exponents of generalised Gaussians.
        beta_plateau: exponents of plateaus.
    """

    kinds: Sequence[KernelType]
    shares: Sequence[float]
    sinc_prob: float
    sigma: tuple[float, float]
    beta_generalized: tuple[float, float]
    beta_plateau: tuple[float, float]

    def draw(self, stream: np.random.Generator) -> Kernel:
        """A random kernel [SIDE, SIDE]."""
        size = SIZES[int(stream.integers(len(SIZES)))]
        if stream.random() < self.sinc_prob:
            lowest = math.pi / 3 if size < 13 else math.pi / 5
            return padded(sinc_kernel(size, stream.uniform(lowest, math.pi)))
        parts = np.cumsum(self.shares) / np.sum(self.shares)
        kind = self.kinds[min(int(np.searchsorted(parts, stream.random(), side="right")), len(self.kinds) - 1)]
        sigma_x, sigma_y, theta, beta = stream.uniform(*self.sigma), None, 0.0, 1.0
        if kind.endswith("aniso"):
            sigma_y, theta = stream.uniform(*self.sigma), stream.uniform(-math.pi, math.pi)
        if kind.startswith(("generalized", "plateau")):
            low, high = self.beta_generalized if kind.startswith("generalized") else self.beta_plateau
            beta = stream.uniform(low, 1) if stream.random() < 0.5 else stream.uniform(1, high)
        return padded(blur_kernel(kind, size, sigma_x, sigma_y, theta, beta))


def draw_final_sinc(stream: np.random.Generator, probability: float) -> Kernel:
    """A sinc kernel [SIDE, SIDE] of random size and cutoff, or with the rest of the probability the identity."""
    if stream.random() >= probability:
        return padded(np.ones((1, 1)))
    size = SIZES[int(stream.integers(len(SIZES)))]
    return padded(sinc_kernel(size, stream.uniform(math.pi / 3, math.pi)))
