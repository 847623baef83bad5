"""Weights and images that need no file: sines of the position. For values recorded elsewhere from the same sines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Run(NamedTuple):
    """One pass and its gradients, in four numbers.

    Attributes:
        total: sum of the output.
        norm: of the output.
        gradient: norm of the gradients of all parameters.
        input_gradient: norm of the gradient of the input.
    """

    total: float
    norm: float
    gradient: float
    input_gradient: float


def waves(shape: Sequence[int], start: int) -> Tensor:
    """Values in [-1, 1], float64."""
    return torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64) + start).view(*shape)


def run(network: nn.Module) -> Run:
    """A network that is filled with waves, on two images of 8 x 12; the loss is the mean of output times waves."""
    network.double()
    for index, parameter in enumerate(network.parameters()):
        parameter.data = waves(parameter.shape, index) * (0.3 if parameter.ndim == 1 else 0.2)
    x = (0.5 + 0.5 * waves((2, 3, 8, 12), 1)).requires_grad_()
    y = network(x)
    (y * waves(y.shape, 2)).mean().backward()
    norms = [parameter.grad.norm() for parameter in network.parameters() if parameter.grad is not None]
    assert x.grad is not None
    return Run(y.sum().item(), y.norm().item(), torch.stack(norms).norm().item(), x.grad.norm().item())
