"""How often global attention shrinks the image, and the one convolution that equals all the shrinking.

Shapes: C channels, T recursions.
"""

from __future__ import annotations

from torch import Tensor

STRIDE = 4
"""Each recursion is a depth-wise convolution of this side and stride."""

GRAPH_SIZES = (16, 1023)
"""Sides of images for which the published rule says the same, two recursions, in evaluation."""


def recursion_count(height: int, width: int, *, training: bool) -> int:
    """The published rule: T for an image of this size.

    In training ``log4(longer / 4)``, otherwise ``log4(longer / 16)`` but at least 2, both rounded down: networks
    trained on patches of 64 to 255 pixels see the same T in both modes, on smaller and on larger ones they do not.
    Where a side would shrink to nothing, which the published network cannot do, T is lowered until it does not.

    Every comparison is decided by a range of sizes alone, so that one exported graph serves all of GRAPH_SIZES.
    """
    longer, shorter = max(height, width), min(height, width)
    count = 0 if training else 2
    while longer // (STRIDE if training else STRIDE**2) >= STRIDE ** (count + 1):
        count += 1
    while count > 0 and shorter < STRIDE**count:
        count -= 1
    return count


def recursion_kernel(weight: Tensor, count: int) -> Tensor:
    """The kernel of ``count`` recursions in a row, which are one depth-wise convolution without padding.

    Args:
        weight: [C, 1, 4, 4].
        count: T, at least 1.

    Returns:
        [C, 1, 4^T, 4^T], also its stride.
    """
    kernel = weight
    for _ in range(count - 1):
        # Each tap of the later convolution meets a whole result of the earlier ones.
        outer = weight[:, :, :, None, :, None] * kernel[:, :, None, :, None, :]
        side = STRIDE * kernel.shape[-1]
        kernel = outer.reshape(-1, 1, side, side)
    return kernel


def recursion_bias(weight: Tensor, bias: Tensor, count: int) -> Tensor:
    """The bias that belongs to :func:`recursion_kernel`, [C]: earlier biases pass through the later kernels."""
    total = bias
    sums = weight.sum((1, 2, 3))
    for _ in range(count - 1):
        total = bias + total * sums
    return total
