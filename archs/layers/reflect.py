"""Images extended by their mirror images, as far as is asked, and cropped again.

Shapes: B images, H W pixels, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from archs.layers.window import Pair
from ops.registry import exporting


def reflect(x: Tensor, dim: int, length: int, before: int = 0) -> Tensor:
    """Extend one axis to ``length``, ``before`` of it at the start, by reflection without repeating the edge.

    As often as it takes: what is longer than the image bounces between its edges. One pixel is repeated.
    """
    n = x.shape[dim]
    if not exporting() and length == n:
        return x
    position = (torch.arange(length, device=x.device) - before) % max(2 * n - 2, 1)
    return x.index_select(dim, torch.where(position < n, position, 2 * n - 2 - position))


def reflect_to_multiple(x: Tensor, multiple: int, dims: Pair = (1, 2)) -> Tensor:
    """[B, H, W, C] extended below and to the right to multiples of ``multiple``; other layouts by their ``dims``."""
    for dim in dims:
        # As a multiple, so that a graph with free sizes knows that windows divide it.
        x = reflect(x, dim, (x.shape[dim] + multiple - 1) // multiple * multiple)
    return x


def crop(x: Tensor, size: Pair) -> Tensor:
    """The top left [B, H, W, C] of a larger image."""
    if not exporting():
        return x[:, : size[0], : size[1]]
    # Of free sizes export cannot prove that a slice is inside; padding by less than nothing asks for no proof.
    return F.pad(x, (0, 0, 0, size[1] - x.shape[2], 0, size[0] - x.shape[1]))
