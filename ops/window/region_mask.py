"""A mask given as regions: one small number for each token, instead of one float for each pair of tokens.

Where windows are shifted around the border of an image, tokens of a window that are no neighbours there must not see
each other. The mask of a 640 x 360 image in windows of 16 x 16 takes 250 MB; its regions take 230 KB.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ops.registry import exporting

HIDDEN = -100.0
"""Added to the logits of tokens of different regions, as Swin-like networks publish it; exp(-100) is 0 beside 1."""


@dataclass(frozen=True, eq=False)
class RegionMask:
    """Mask of self-attention: tokens of one region see each other, the logits of others are lowered by 100.

    Attributes:
        regions: [n, N] uint8, or of :func:`region_dtype`: the region of each token, for the n windows of an image.
    """

    regions: Tensor

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """[n, N, N]: 0 inside a region, -100 between regions."""
        return dense_mask(self.regions, dtype)


def dense_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as floats: regions [n, N] -> [n, N, N]; a mask that has floats already is cast."""
    if not is_regions(mask):
        return mask.to(dtype)
    return _hiding(mask[:, :, None] != mask[:, None, :], dtype)


def mask_rows(mask: Tensor, windows: slice, total: int, queries: slice, dtype: torch.dtype) -> Tensor:
    """A mask as floats for some windows of a batch and some of their queries.

    Args:
        mask: [n, N, M] floats, or regions [n, N].
        windows: of the W, which are images of n windows each.
        total: W.
        queries: of the N.
        dtype: of the result.

    Returns:
        [W', Q, M].
    """
    of_images = mask[torch.arange(total, device=mask.device)[windows] % mask.shape[0]]
    if not is_regions(mask):
        return of_images[:, queries].to(dtype)
    return _hiding(of_images[:, queries, None] != of_images[:, None, :], dtype)


def _hiding(apart: Tensor, dtype: torch.dtype) -> Tensor:
    """0 for pairs that see each other, -100 for those that are apart."""
    if exporting():  # zeros of this shape would be stored in the program
        hidden, seen = (torch.full((), value, dtype=dtype, device=apart.device) for value in (HIDDEN, 0.0))
        return torch.where(apart, hidden, seen)
    return torch.zeros(apart.shape, dtype=dtype, device=apart.device).masked_fill(apart, HIDDEN)


def is_regions(mask: Tensor) -> bool:
    """Whether a tensor in the place of a mask holds regions."""
    return mask.dtype == torch.uint8 or (mask.dtype == torch.int32 and exporting())


def region_dtype() -> torch.dtype:
    """The type to make regions in: uint8, but int32 in exported programs, since not all runtimes compute with bytes."""
    return torch.int32 if exporting() else torch.uint8
