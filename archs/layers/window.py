"""An image cut into windows, and put together again.

Shapes: B images, H W pixels, C channels, h w sides of a window, n = (H / h) (W / w) windows of an image; windows, and
the pixels in them, are in row-major order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from archs.layers.sliding import sliding
from ops.cache import cached_constant
from ops.registry import divisor, free, recording
from utils.devices import CPU

Pair = tuple[int, int]


def window_partition(x: Tensor, window: Pair) -> Tensor:
    """Cut an image whose sides are multiples of the window's.

    Args:
        x: [B, H, W, C].
        window: (h, w).

    Returns:
        [B*n, h*w, C], image after image.
    """
    B, H, W, C = x.shape
    h, w = window
    if free(H) or free(W):
        index = _by_image(window_order(window, (H, W), x.device), B)
        return x.flatten(0, 2).index_select(0, index).view(-1, h * w, C)
    return x.view(B, H // h, h, W // w, w, C).transpose(2, 3).reshape(B * (H // h) * (W // w), h * w, C)


def window_merge(windows: Tensor, window: Pair, size: Pair) -> Tensor:
    """The image that :func:`window_partition` has cut.

    Args:
        windows: [B*n, h*w, C].
        window: (h, w).
        size: (H, W).

    Returns:
        [B, H, W, C].
    """
    (h, w), (H, W) = window, size
    rows, columns, C = H // h, W // w, windows.shape[-1]
    B = windows.shape[0] // (rows * columns)
    if free(H) or free(W):
        index = _by_image(image_order(window, size, windows.device), B)
        return windows.flatten(0, 1).index_select(0, index).view(B, H, W, C)
    return windows.view(B, rows, columns, h, w, C).transpose(2, 3).reshape(B, H, W, C)


def shifted_partition(x: Tensor, window: Pair, shift: int) -> Tensor:
    """Cut an image rolled up and left by ``shift``, in one pass where no gradient is wanted.

    Args:
        x: [B, H, W, C], sides multiples of the window's.
        window: (h, w).
        shift: by how many pixels.

    Returns:
        [B*n, h*w, C].
    """
    if not shift:
        return window_partition(x, window)
    if _by_views(x):
        return window_partition(torch.roll(x, (-shift, -shift), (1, 2)), window)
    B, H, W, C = x.shape
    places = (window, (H, W), shift, B, x.device)
    rows = permuted(x.flatten(0, 2), shifted_places(*places), unshifted_places(*places))
    return rows.view(-1, window[0] * window[1], C)


def shifted_merge(windows: Tensor, window: Pair, size: Pair, shift: int) -> Tensor:
    """The image that :func:`shifted_partition` has cut.

    Args:
        windows: [B*n, h*w, C].
        window: (h, w).
        size: (H, W).
        shift: by how many pixels.

    Returns:
        [B, H, W, C].
    """
    if not shift:
        return window_merge(windows, window, size)
    if _by_views(windows):
        return torch.roll(window_merge(windows, window, size), (shift, shift), (1, 2))
    pixels = windows.flatten(0, 1)
    places = (window, size, shift, len(pixels) // (size[0] * size[1]), windows.device)
    rows = permuted(pixels, unshifted_places(*places), shifted_places(*places))
    return rows.view(-1, *size, windows.shape[-1])


def _by_views(x: Tensor) -> bool:
    """Whether windows are cut by PyTorch's views: in graphs, and in training steps that are not on the CPU."""
    return recording() or (torch.is_grad_enabled() and x.device.type != CPU.type)


def permuted(rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """Rows [N, C] in another order, in one pass, and so their gradient: ``back`` is the inverse of ``order``."""
    if recording():
        return rows.index_select(0, order)
    if torch.is_grad_enabled() and rows.requires_grad:
        moved: Tensor = _Moved.apply(rows, order, back)  # type: ignore[no-untyped-call]
        return moved
    return rows.index_select(0, order)


class _Moved(torch.autograd.Function):
    """An order of rows. PyTorch would add up the gradient of an index, which may name a row twice."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.orders = order, back
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        order, back = ctx.orders
        return permuted(grad, back, order), None, None


@cached_constant(4)
def shifted_places(window: Pair, size: Pair, shift: int, images: int, device: torch.device) -> Tensor:
    """Which pixel of the images each pixel of their windows is, as :func:`shifted_partition` cuts them, [B*H*W]."""
    return _by_image(_shifted_order(window, size, shift, device), images)


@cached_constant(4)
def unshifted_places(window: Pair, size: Pair, shift: int, images: int, device: torch.device) -> Tensor:
    """Where each pixel of the images is among those of their windows, [B*H*W]."""
    return _by_image(_unshifted_order(window, size, shift, device), images)


@cached_constant(4)
def _shifted_order(window: Pair, size: Pair, shift: int, device: torch.device) -> Tensor:
    """Which pixel of an image each pixel of its shifted windows is, [H*W]."""
    numbers = torch.arange(size[0] * size[1], device=device).view(1, *size, 1)
    return window_partition(numbers.roll((-shift, -shift), (1, 2)), window).flatten()


@cached_constant(4)
def _unshifted_order(window: Pair, size: Pair, shift: int, device: torch.device) -> Tensor:
    """Where each pixel of an image is among those of its shifted windows, [H*W]."""
    return _shifted_order(window, size, shift, device).argsort()


# A graph with free sizes picks pixels by an index. Views would do, but where a count of windows is a side of a tensor,
# export asks whether it is 1, and the program refuses images of the size of one window.


def window_order(window: Pair, size: Pair, device: torch.device) -> Tensor:
    """Which pixel of an image each pixel of its windows is, [H*W]."""
    (h, w), (H, W) = window, size
    place = torch.arange(H * W, device=device)
    number, inside = place // (h * w), place % (h * w)
    columns = divisor(W // w, device)
    row, column = number // columns, number % columns
    return (row * h + inside // w) * W + column * w + inside % w


def image_order(window: Pair, size: Pair, device: torch.device) -> Tensor:
    """Where each pixel of an image is among the pixels of its windows, [H*W]."""
    (h, w), (H, W) = window, size
    row, column = torch.arange(H, device=device)[:, None], torch.arange(W, device=device)
    return (((row // h) * (W // w) + column // w) * (h * w) + (row % h) * w + column % w).flatten()


def _by_image(index: Tensor, images: int) -> Tensor:
    """An index into one image as one into several that are joined: [N] -> [B*N]."""
    first = torch.arange(images, device=index.device)[:, None] * index.shape[0]
    return (first + index).flatten()


def overlapping_windows(x: Tensor, window: Pair, extended: Pair) -> Tensor:
    """The surroundings of each window: as many windows, larger, about the same centres; zeros outside the image.

    Args:
        x: [B, H, W, C].
        window: (h, w), how far the windows are apart.
        extended: (eh, ew), sides of the larger windows; even numbers more than ``window``.

    Returns:
        [B*n, eh*ew, C].
    """
    (h, w), (eh, ew), C = window, extended, x.shape[-1]
    top, left = (eh - h) // 2, (ew - w) // 2
    framed = F.pad(x, (0, 0, left, left, top, top))
    views = sliding(sliding(framed, 1, eh, h), 2, ew, w)  # [B, H / h, W / w, C, eh, ew]
    B, rows, columns = views.shape[:3]
    return views.permute(0, 1, 2, 4, 5, 3).reshape(B * rows * columns, eh * ew, C)
