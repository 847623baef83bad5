"""Soft pooling: the mean of a window weighted by the exponentials of its own values.

Shapes: B images, C channels, H W pixels, K side of a window, h w windows along each direction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archs.layers.sliding import sliding
from utils.errors import InputError


def soft_pool2d(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """sum(exp(v) v) / sum(exp(v)) over the values v of each window, without overflow or underflow.

    The sums are taken along H, then along W, each relative to the largest value among its terms. One maximum for
    the whole map would not do: a window far below it would become 0 / 0. The arithmetic is float32 at least.
    Windows that do not fit are dropped; a direction smaller than the window is one window.

    Args:
        x: [B, C, H, W].
        kernel_size: side K of the windows.
        stride: distance between windows.

    Returns:
        [B, C, h, w] with h = (H - min(K, H)) // stride + 1, in the dtype of ``x``.
    """
    height, width = x.shape[-2:]
    across = min(kernel_size, width)
    # H first: the long inner loops then run over neighbouring pixels, a third faster on a CPU than W first.
    rows = sliding(x.to(torch.promote_types(x.dtype, torch.float32)), 2, min(kernel_size, height), stride)
    # The maxima cancel in the quotient, so no gradient needs to go through them.
    largest = rows.detach().amax(-1)  # [B, C, h, W]
    weight = (rows - largest.unsqueeze(-1)).exp()  # [B, C, h, W, K]
    weight_sum, value_sum = weight.sum(-1), (weight * rows).sum(-1)  # each [B, C, h, W]

    largest = sliding(largest, 3, across, stride)  # [B, C, h, w, K]
    rescale = (largest - largest.amax(-1, keepdim=True)).exp()
    weight_sum = (sliding(weight_sum, 3, across, stride) * rescale).sum(-1)  # [B, C, h, w]
    value_sum = (sliding(value_sum, 3, across, stride) * rescale).sum(-1)
    return (value_sum / weight_sum).to(x.dtype)


class SoftPool2d(nn.Module):
    """:func:`soft_pool2d` as a layer without parameters."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        if kernel_size < 1 or stride < 1:
            raise InputError(f"SoftPool2d: window and stride must be at least 1, got {kernel_size} and {stride}")
        self.kernel_size = kernel_size
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, h, w]."""
        return soft_pool2d(x, self.kernel_size, self.stride)

    def extra_repr(self) -> str:
        """Window and stride, for printing."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"
