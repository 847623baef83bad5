"""Soft pooling: the mean of a window weighted by the exponentials of its own values.

Shapes: B images, C channels, H W pixels, K side of a window, h w windows along each direction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archs.layers.sliding import sliding
from ops.registry import free
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
    x_float = x.to(torch.promote_types(x.dtype, torch.float32))
    down, right = _Windows(x, 2, kernel_size, stride), _Windows(x, 3, kernel_size, stride)
    # H first: the long inner loops then run over neighbouring pixels, a third faster on a CPU than W first.
    rows = down.of(x_float)
    # The maxima cancel in the quotient, so no gradient needs to go through them.
    largest = rows.detach().amax(-1)  # [B, C, h, W]
    weight = down.counted((rows - largest.unsqueeze(-1)).exp())  # [B, C, h, W, K]
    weight_sum, value_sum = weight.sum(-1), (weight * rows).sum(-1)  # each [B, C, h, W]

    largest = right.of(largest)  # [B, C, h, w, K]
    rescale = right.counted((largest - largest.amax(-1, keepdim=True)).exp())
    weight_sum = (right.of(weight_sum) * rescale).sum(-1)  # [B, C, h, w]
    value_sum = (right.of(value_sum) * rescale).sum(-1)
    return (value_sum / weight_sum).to(x.dtype)


class _Windows:
    """The windows of ``size`` along an axis, ``step`` apart; one that is as long as the axis if the axis is shorter.

    Where the length is free, no branch may ask which it is. Shorter axes are extended by their last entry, which does
    not change the largest of a window, and :meth:`counted` takes the weights of the added entries away.
    """

    def __init__(self, x: Tensor, dim: int, size: int, step: int) -> None:
        length = x.shape[dim]
        self.dim, self.step = dim, step
        self.place: Tensor | None = None
        if not free(length):
            self.size = min(size, length)
            return
        self.size = size
        position = torch.arange(torch.sym_max(length, size), device=x.device)
        self.place = torch.minimum(position, torch.full((), length - 1, device=x.device))
        inside = sliding(position < length, 0, size, step)  # [n, K]
        self.inside = inside[:, None] if dim == 2 else inside

    def of(self, x: Tensor) -> Tensor:
        """[..., L, ...] -> [..., n, ..., K]."""
        x = x if self.place is None else x.index_select(self.dim, self.place)
        return sliding(x, self.dim, self.size, self.step)

    def counted(self, weight: Tensor) -> Tensor:
        """The weights of entries of windows, those of added entries being 0."""
        return weight if self.place is None else weight * self.inside.to(weight.dtype)


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
