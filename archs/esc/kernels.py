"""The large kernel that all layers of an ESC share, and the small ones that it is joined with.

Shapes: B images, H W pixels, p channels that are filtered, k side of the large kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.registry import exporting

DYNAMIC_SIDE = 3
"""Side of the kernels that are generated from the image."""


def symmetric_kernel(weight: Tensor) -> Tensor:
    """The mean of a kernel over the eight symmetries of the square: [..., k, k] -> [..., k, k].

    In the paper: the geometric re-parameterisation of the large kernel.

    A projection: applied twice it changes nothing, so that kernels stored before or after it give the same.
    """
    weight = weight + weight.flip(-1)
    weight = weight + weight.flip(-2)
    return (weight + weight.transpose(-2, -1)) / 8


def initial_kernel(channels: int, side: int) -> Tensor:
    """[p, p, k, k] with orthonormal rows: what the shared kernel starts from; trainings are unstable without."""
    return nn.init.orthogonal_(torch.empty(channels, channels * side * side)).view(channels, channels, side, side)


def padded_to(kernel: Tensor, side: int) -> Tensor:
    """A kernel [..., j, j] with zeros around it: [..., side, side]."""
    around = (side - kernel.shape[-1]) // 2
    return F.pad(kernel, (around, around, around, around))


def convolve_symmetric(x: Tensor, kernel: Tensor) -> Tensor:
    """A convolution with a kernel that is its own mirror image top to bottom.

    Rows at the same distance above and below have the same weights, so on the CPU they are added first: half of the
    products, for a few additions.

    Args:
        x: [B, H, W, p].
        kernel: [p', p, k, k], symmetric, k odd.

    Returns:
        [B, H, W, p'].
    """
    half, H = kernel.shape[-1] // 2, x.shape[1]
    if exporting() or x.device.type != "cpu" or half == 0:
        # "same": while torch 2.6 traces, sizes are tensors, which no padding may be.
        return F.conv2d(x.permute(0, 3, 1, 2), kernel, padding="same").permute(0, 2, 3, 1)
    framed = F.pad(x, (0, 0, 0, 0, half, half))
    pairs = [framed[:, half + d : half + d + H] + framed[:, half - d : half - d + H] for d in range(1, half + 1)]
    rows = torch.cat([x, *pairs], -1)  # [B, H, W, (half + 1) * p]
    weight = torch.cat(
        [kernel[:, :, half + d : half + d + 1] for d in range(half + 1)], 1
    )  # [p', (half + 1) * p, 1, k]
    return F.conv2d(rows.permute(0, 3, 1, 2), weight, padding=(0, half)).permute(0, 2, 3, 1)


def depthwise_by_image(x: Tensor, kernels: Tensor) -> Tensor:
    """Each channel of each image convolved with a kernel of its own.

    Args:
        x: [B, H, W, p].
        kernels: [B, p, k, k], k odd.

    Returns:
        [B, H, W, p].
    """
    if exporting():
        return _tap_by_tap(x, kernels)
    B, p, side = x.shape[0], x.shape[-1], kernels.shape[-1]
    # One image whose channels are those of all images, with its channels last: depthwise kernels are fastest on that.
    joined = x.permute(1, 2, 0, 3).flatten(2).permute(2, 0, 1)[None]
    kernels = kernels.to(x.dtype)  # what generates them may compute in a type of its own
    out = F.conv2d(joined, kernels.reshape(B * p, 1, side, side), padding="same", groups=B * p)
    by_image: Tensor = out[0].unflatten(0, (B, p))
    return by_image.permute(0, 2, 3, 1)


def depthwise_joined(x: Tensor, shared: Tensor, kernels: Tensor) -> Tensor:
    """Each channel of each image convolved with the sum of a shared kernel and a smaller one of its own.

    Args:
        x: [B, H, W, p].
        shared: [p, 1, k, k], k odd.
        kernels: [B, p, j, j], j odd and at most k.

    Returns:
        [B, H, W, p].
    """
    if exporting():
        image = F.conv2d(x.permute(0, 3, 1, 2), shared, padding="same", groups=shared.shape[0])
        return image.permute(0, 2, 3, 1) + _tap_by_tap(x, kernels)
    return depthwise_by_image(x, shared[:, 0] + padded_to(kernels, shared.shape[-1]))


def _tap_by_tap(x: Tensor, kernels: Tensor) -> Tensor:
    """:func:`depthwise_by_image` as a sum of shifted images.

    ONNX holds the groups of a convolution as a number, and these would be as many as the images have channels together.
    """
    H, W, side = x.shape[1], x.shape[2], int(kernels.shape[-1])  # while torch.jit traces, sizes are tensors
    half = side // 2
    framed = F.pad(x, (0, 0, half, half, half, half))
    taps = kernels.permute(2, 3, 0, 1)[:, :, :, None, None]  # [k, k, B, 1, 1, p]
    total: Tensor | None = None
    for i in range(side):
        rows = framed[:, i : i + H]
        for j in range(side):
            term = rows[:, :, j : j + W] * taps[i, j]
            total = term if total is None else total + term
    assert total is not None
    return total
