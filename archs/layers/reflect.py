"""Images extended to multiples of a size by their mirror images, and cropped again.

Shapes: B images, H W pixels, C channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from archs.layers.window import Pair
from ops.pixels.reflect import reflect
from ops.registry import free


def reflect_to_multiple(x: Tensor, multiple: int, dims: Pair = (1, 2)) -> Tensor:
    """[B, H, W, C] extended below and to the right to multiples of ``multiple``; other layouts by their ``dims``."""
    for dim in dims:
        # As a multiple, so that a graph with free sizes knows that windows divide it.
        x = reflect(x, dim, (x.shape[dim] + multiple - 1) // multiple * multiple)
    return x


def crop(x: Tensor, size: Pair) -> Tensor:
    """The top left [B, H, W, C] of a larger image."""
    if not any(free(side) for side in (*size, x.shape[1], x.shape[2])):
        return x[:, : size[0], : size[1]]
    # Of free sizes export cannot prove that a slice is inside; padding by less than nothing asks for no proof.
    return F.pad(x, (0, 0, 0, size[1] - x.shape[2], 0, size[0] - x.shape[1]))
