"""The singular vectors of a matrix that belong to its largest singular value, step by step.

In a compiled graph this is an operator of its own, because the compiler must not see inside: it would keep the vectors
that came in for the backward pass and make those that were used anew from them, and the vectors that came in are
buffers, which the next pass overwrites.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.registration import register

EPSILON = 1e-12
"""Vectors shorter than this are divided by it instead of by their length."""


class PowerArguments(NamedTuple):
    """The arguments of ``focalsr::power_iteration``."""

    matrix: Tensor  # [M, N]
    u: Tensor  # [M]
    v: Tensor  # [N]
    steps: int


def unit(x: Tensor) -> Tensor:
    """[N] -> [N] of length 1."""
    return F.normalize(x, dim=0, eps=EPSILON)


def power_iteration(matrix: Tensor, u: Tensor, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Repeat v <- n(W^T u), then u <- n(W v), with n(x) = x / |x|.

    Args:
        matrix: W [M, N], without gradient.
        u: [M], the left vector so far.
        v: [N], the right vector so far; what comes out depends on it where there are no steps.
        steps: how often.

    Returns:
        The new u and v, never the ones that came in, also for no steps.
    """
    arguments = PowerArguments(matrix, u, v, steps)
    if torch.compiler.is_compiling():
        new: tuple[Tensor, Tensor] = torch.ops.focalsr.power_iteration(*arguments)
        return new
    return _power_iteration(arguments)


def _power_iteration(arguments: PowerArguments) -> tuple[Tensor, Tensor]:
    matrix, u, v, steps = arguments
    if steps == 0:
        return u.clone(), v.clone()
    for _ in range(steps):
        v = unit(torch.mv(matrix.t(), u))
        u = unit(torch.mv(matrix, v))
    return u, v


register(
    "power_iteration",
    PowerArguments,
    "(Tensor, Tensor)",
    fake=lambda arguments: (torch.empty_like(arguments.u), torch.empty_like(arguments.v)),
    kernel=_power_iteration,
)
