"""Windows of an image as lists of pixels, for :func:`ops.image_attention`.

Shapes: n windows of an image, N tokens of a window, M of the larger one around it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archs.layers.mask import shift_regions
from archs.layers.window import Pair, overlapping_windows, window_partition
from ops import ImageWindows
from ops.cache import cached_constant


def image_windows(
    size: Pair, window: Pair, shift: Pair, multiple: int, bias: Tensor | None, device: torch.device
) -> ImageWindows:
    """The windows of an image that is extended to multiples of a number of pixels, and rolled by ``-shift``.

    Args:
        size: (H, W) of the image.
        window: (h, w).
        shift: (down, right), less than the window's sides.
        multiple: of whose both sides of the window are divisors.
        bias: [heads, N, N].
        device: of the tables.
    """
    regions = None
    if shift != (0, 0):
        regions = shift_regions(_extended(size, multiple), window, shift, device).contiguous()
    return ImageWindows(_places(size, window, shift, multiple, device), regions, bias)


def overlapping_image_windows(
    size: Pair, window: Pair, extended: Pair, bias: Tensor | None, device: torch.device
) -> ImageWindows:
    """The windows of an image, each of which looks into a larger one around it.

    Args:
        size: (H, W) of the image, multiples of the window's sides.
        window: (h, w).
        extended: sides of the larger windows.
        bias: [heads, N, M].
        device: of the tables.
    """
    places = _places(size, window, (0, 0), 1, device)
    return ImageWindows(places, None, bias, _surroundings(size, window, extended, device))


@cached_constant(4)
def _surroundings(size: Pair, window: Pair, extended: Pair, device: torch.device) -> Tensor:
    """[n, M] int32, the pixel of each token of the larger windows, or -1."""
    numbers = torch.arange(1, size[0] * size[1] + 1, dtype=torch.int32, device=device)
    return overlapping_windows(numbers.view(1, *size, 1), window, extended).flatten(1) - 1


@cached_constant(4)
def _places(size: Pair, window: Pair, shift: Pair, multiple: int, device: torch.device) -> Tensor:
    """[n, N] int32, the pixel of each token, or -1."""
    height, width = size
    numbers = torch.full(_extended(size, multiple), -1, dtype=torch.int32, device=device)
    numbers[:height, :width] = torch.arange(height * width, dtype=torch.int32, device=device).view(size)
    rolled = numbers[None, ..., None].roll((-shift[0], -shift[1]), (1, 2))
    return window_partition(rolled, window).flatten(1).contiguous()


def _extended(size: Pair, multiple: int) -> Pair:
    height, width = size
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple
