"""What a local attribution map explains: the amount of detail in a window of the SR image.

Shapes: B images, C channels, H W pixels of the SR image.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from utils.errors import InputError

Flat = Literal["drop", "zero"]
"""Where the SR image is flat the root has no derivative: "drop" lets it be NaN, "zero" takes 0."""


@dataclasses.dataclass(frozen=True)
class Window:
    """A square of the SR image.

    Attributes:
        x: its first column.
        y: its first row.
        size: its side.
    """

    x: int
    y: int
    size: int

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.size}"

    def cut(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that are left of it in an SR image [height, width].

        A pixel counts if it has neighbours below and to the right: the last row and the last column do not.

        Raises:
            InputError: nothing is left.
        """
        if self.size < 1:
            raise InputError(f"the window {self} (x, y, side) has no pixels: its side must be at least 1")
        if min(self.x, self.y) < 0 or self.x >= width - 1 or self.y >= height - 1:
            raise InputError(
                f"the window {self} (x, y, side) begins outside the SR image, which has {width} x {height} pixels: x "
                f"must be from 0 to {width - 2}, y from 0 to {height - 2}"
            )
        return min(self.size, height - 1 - self.y), min(self.size, width - 1 - self.x)


def detail(images: Tensor, window: Window, flat: Flat = "drop") -> Tensor:
    """The magnitudes of the gradient in a window, summed: [B, C, H, W] -> [B].

    ``sqrt((Y(r,q) - Y(r+1,q))^2 + (Y(r,q) - Y(r,q+1))^2)``, summed over the window and the channels. It uses one row
    and one column beyond the window.

    Args:
        images: SR images, not clamped.
        window: what lies beyond the border is left out.
        flat: "drop": as published, a derivative of NaN where both differences are zero; "zero": a derivative of 0.

    Raises:
        InputError: the window lies outside.
    """
    rows, columns = window.cut(*images.shape[-2:])
    part = images[..., window.y : window.y + rows + 1, window.x : window.x + columns + 1]
    here = part[..., :-1, :-1]
    square = (here - part[..., 1:, :-1]) ** 2 + (here - part[..., :-1, 1:]) ** 2
    if flat == "zero":
        rising = square > 0
        return torch.where(rising, torch.where(rising, square, 1).sqrt(), 0).sum((1, 2, 3))
    return square.sqrt().sum((1, 2, 3))


def most_detailed(image: Tensor, size: int) -> Window:
    """The window with the most detail, an eighth of the sides away from the borders where that can be.

    Args:
        image: [C, H, W].
        size: side of the window; lowered to that of the image.

    Raises:
        InputError: the image has not two rows and two columns.
    """
    height, width = image.shape[-2:]
    if min(height, width) < 2:
        raise InputError(f"an image of {width} x {height} pixels has no window with detail")
    size = min(size, height - 1, width - 1)
    here = image[:, :-1, :-1].double()
    square = (here - image[:, 1:, :-1]) ** 2 + (here - image[:, :-1, 1:]) ** 2
    sums = torch.zeros(height, width, dtype=torch.float64)  # integral image: a window's sum takes four of its values
    sums[1:, 1:] = square.sqrt().sum(0).cumsum(0).cumsum(1).cpu()
    windows = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    top, left = (max(0, min(length // 8, (length - 1 - size) // 2)) for length in (height, width))
    inner = windows[top : windows.shape[0] - top, left : windows.shape[1] - left]
    y, x = divmod(int(inner.argmax()), inner.shape[1])
    return Window(left + x, top + y, size)
