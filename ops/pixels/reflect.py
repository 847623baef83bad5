"""Axes extended by their mirror images, as far as is asked."""

from __future__ import annotations

import torch
from torch import Tensor

from ops.registry import divisor, exporting


def reflect(x: Tensor, dim: int, length: int, before: int = 0) -> Tensor:
    """Extend one axis to ``length``, ``before`` of it at the start, by reflection without repeating the edge.

    As often as it takes: what is longer than the image bounces between its edges. One pixel is repeated.
    """
    n = x.shape[dim]
    if not exporting() and length == n:
        return x
    position = torch.arange(length, device=x.device) - before
    period = max(2 * n - 2, 1)
    position = position % divisor(period, x.device)
    return x.index_select(dim, torch.where(position < n, position, 2 * n - 2 - position))
