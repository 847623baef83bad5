"""Images that a network extends itself, at the right and bottom, by their mirror image, and crops again.

Shapes: B images, c channels, H W pixels, H' W' after the extension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ops.registry import divisor, exporting


def mirrored(x: Tensor, multiple: int) -> Tensor:
    """Pad at the right and bottom to multiples: the image, then its mirror image, and so on, edges twice.

    Args:
        x: [B, c, H, W].
        multiple: of both sides of the result.

    Returns:
        [B, c, H', W'].
    """
    for dim in (2, 3):
        size = x.shape[dim]
        padded = (size + multiple - 1) // multiple * multiple
        if exporting() or padded != size:  # one program for all sizes always pads
            x = x.index_select(dim, mirror_index(size, padded, x.device))
    return x


def cropped(x: Tensor, height: int, width: int) -> Tensor:
    """The top left of an image, [B, c, height, width]."""
    if exporting():  # whether a slice ends within a side is a question that a program for all sizes cannot answer
        rows, columns = (torch.arange(size, device=x.device) for size in (height, width))
        return x.index_select(2, rows).index_select(3, columns)
    return x[:, :, :height, :width]


def mirror_index(size: int, padded: int, device: torch.device) -> Tensor:
    """Where each pixel of a padded side comes from: 0 .. size-1, size-1 .. 0, 0 .. size-1, ..., [padded]."""
    place = torch.arange(padded, device=device) % divisor(2 * size, device)
    return torch.minimum(place, 2 * size - 1 - place)
