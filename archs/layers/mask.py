"""What the pixels of a window may see of each other where windows were shifted around the image's border."""

from __future__ import annotations

import torch
from torch import Tensor

from archs.layers.window import Pair, window_partition
from ops import RegionMask
from ops.cache import cached_constant
from ops.window.region_mask import region_dtype


# Four: a network whose windows lie down and stand up needs two in turn, for training and for validation images.
@cached_constant(4)
def shift_regions(size: Pair, window: Pair, shift: Pair, device: torch.device) -> Tensor:
    """The regions of windows of an image rolled by ``-shift``: tokens of one region lie in one piece of the image.

    Args:
        size: (H, W) of the image, multiples of the window's sides.
        window: (h, w).
        shift: by how much the content has moved up and left, less than the window's sides.
        device: of the result.

    Returns:
        [n, h*w] uint8 (int32 while a program is exported) for the n windows of an image; only those of the last row and
        column have several regions.
    """
    H, W = size
    regions = 3 * _regions(H, window[0], shift[0], device)[:, None] + _regions(W, window[1], shift[1], device)
    return window_partition(regions[None, ..., None], window).flatten(1)


def shift_mask(size: Pair, window: Pair, shift: Pair, device: torch.device) -> Tensor:
    """The same as published files store it: [n, h*w, h*w] float32, 0 within each region, else -100."""
    return RegionMask(shift_regions(size, window, shift, device)).dense()


def _regions(length: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Of each position along an axis: 0, but in the last window 1 for what was the end and 2 for what was the start."""
    position = torch.arange(length, device=device)
    dtype = region_dtype()
    return (position >= length - window).to(dtype) + (position >= length - shift).to(dtype)
