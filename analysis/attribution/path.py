"""The path of a local attribution map: from a blurred image to the image itself.

Gu & Dong, *Interpreting Super-Resolution Networks with Local Attribution Maps*, CVPR 2021.

Shapes: C channels, h w low-resolution pixels, n steps.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.devices import exact_device
from utils.errors import InputError


class Step(NamedTuple):
    """One step of a path, both [C, h, w], float64.

    Attributes:
        image: I_{i+1}, the sharper end of the step.
        change: I_{i+1} - I_i.
    """

    image: Tensor
    change: Tensor


@dataclasses.dataclass(frozen=True)
class BlurPath:
    """Images I_0 (most blurred) to I_n (the image), by normalised Gaussian kernels of falling width.

    The width of I_i is ``sigma * (n - i) / n + offset``. Borders are mirrored without repeating the edge pixel.

    Attributes:
        steps: n.
        sigma: standard deviation of the first kernel, in pixels.
        side: of the square kernels, odd.
        offset: keeps the last width from being zero.

    Raises:
        InputError: there is no step.
    """

    steps: int = 50
    sigma: float = 1.2
    side: int = 9
    offset: float = 1e-5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"a path needs at least 1 step, got {self.steps}")

    def weights(self, i: int) -> Tensor:
        """The kernel of I_i along one axis, [side], float64, of sum 1; the square kernel is its outer product."""
        width = self.sigma * (self.steps - i) / self.steps + self.offset
        reach = self.side // 2
        values = [math.exp(-(u * u) / (2 * width * width)) for u in range(-reach, reach + 1)]
        total = sum(values)
        return torch.tensor([value / total for value in values], dtype=torch.float64)

    def image(self, image: Tensor, i: int) -> Tensor:
        """I_i of an image [C, h, w], float64, where the device has such numbers, else on the CPU."""
        weights = self.weights(i)
        return _filtered(self._extended(image), weights, weights)

    def step(self, image: Tensor, i: int) -> Step:
        """Step i of an image [C, h, w], i = 0 .. n-1.

        The change is computed with the difference of the two kernels, so that it is exact where the images are equal
        but for rounding.

        Raises:
            InputError: the image is too small for the kernel.
        """
        extended = self._extended(image)
        before, after = self.weights(i), self.weights(i + 1)
        # a a' - b b' = (a - b) a' + b (a - b)': no difference of nearly equal images is taken.
        rise = after - before
        change = _filtered(extended, rise, after) + _filtered(extended, before, rise)
        return Step(_filtered(extended, after, after), change)

    def _extended(self, image: Tensor) -> Tensor:
        reach = self.side // 2
        h, w = image.shape[-2:]
        if min(h, w) <= reach:
            raise InputError(
                f"the LR image has {w} x {h} pixels; the kernels of the path are mirrored at its borders, for which it "
                f"needs at least {reach + 1} x {reach + 1}"
            )
        exact = image.to(exact_device(image.device)).double()
        return F.pad(exact[None], (reach, reach, reach, reach), mode="reflect")[0]


def _filtered(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """An extended image [C, h + l - 1, w + l - 1], filtered along both axes -> [C, h, w]."""
    rows, columns = rows.to(image.device), columns.to(image.device)
    planes = F.conv2d(image[:, None], rows[None, None, :, None])
    return F.conv2d(planes, columns[None, None, None, :])[:, 0]
