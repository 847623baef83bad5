"""What the pixels of a window may see of each other where windows were shifted around the image's border."""

from __future__ import annotations

import torch
from torch import Tensor

from archs.layers.cache import cached_constant
from archs.layers.window import Pair, window_partition

HIDDEN = -100.0
"""Added to the logits of pixels that are no neighbours; exp(-100) is 0 next to any other term."""


# Two: a network whose windows lie down and stand up needs both masks in turn. They are large, and cheap to make.
@cached_constant(2)
def shift_mask(size: Pair, window: Pair, shift: Pair, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The mask for windows of an image rolled by ``-shift``: 0 within each piece of the original image, else -100.

    Args:
        size: (H, W) of the image, multiples of the window's sides.
        window: (h, w).
        shift: by how much the content has moved up and left, less than the window's sides.
        device: of the result.
        dtype: of the result.

    Returns:
        [n, h*w, h*w] for the n windows of an image; only those of the last row and column hold anything but zeros.
    """
    H, W = size
    regions = 3 * _regions(H, window[0], shift[0], device)[:, None] + _regions(W, window[1], shift[1], device)
    regions = window_partition(regions[None, ..., None], window)  # [n, h*w, 1]
    apart = regions != regions.mT
    return torch.zeros(apart.shape, device=device, dtype=dtype).masked_fill_(apart, HIDDEN)


def _regions(length: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Of each position along an axis: 0, but in the last window 1 for what was the end and 2 for what was the start."""
    position = torch.arange(length, device=device)
    return (position >= length - window).int() + (position >= length - shift).int()
