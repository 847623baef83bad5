"""Exported programs compared with the network, on images of sizes that the export has not seen.

Shapes: B images, c channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.errors import RunError
from utils.log import get_logger
from utils.wording import first_line

LEVELS = 255
"""Of a picture of 8 bits, above 0."""

Run = Callable[[Tensor], Tensor]
"""[B, c, h, w] in [0, 1] -> [B, c, s*h, s*w]."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """What lies between a program's outputs and a network's.

    Attributes:
        largest: between two values, in the range 0 to 1.
        levels: between two values of pictures of 8 bits.
    """

    largest: float
    levels: int

    def __str__(self) -> str:
        return f"largest difference {self.largest:.1e}, {self.levels} of {LEVELS} levels"


def unseen_sizes(least: int, most: int | None, window: int) -> list[tuple[int, int, int]]:
    """(B, h, w) of the images of three checks: one pixel more than the least, odd sizes, multiples of the window.

    Args:
        least: height and width of the smallest image that the program takes.
        most: of the largest; None for any.
        window: side of the network's windows, or of whatever else its grid is made of.
    """
    window = max(window, 8)
    sizes = [(1, 1, 1), (3, window + 1, 2 * window + 3), (2, 2 * window, window)]
    sizes = [(sizes[0][0], least + 1, least + 1), *((b, max(h, least), max(w, least)) for b, h, w in sizes[1:])]
    return [(b, min(h, most or h), min(w, most or w)) for b, h, w in sizes]


def check_images(size: tuple[int, int, int], channels: int, seed: int) -> Tensor:
    """Images with smooth parts, edges and noise: [B, c, h, w] in [0, 1]."""
    B, h, w = size
    random = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(B, channels, 4, 4, generator=random), (h, w), mode="bicubic")
    blocks = F.interpolate(torch.rand(B, channels, 5, 3, generator=random), (h, w), mode="nearest")
    noise = torch.rand(B, channels, h, w, generator=random)
    return (0.5 * smooth + 0.4 * blocks + 0.1 * noise).clamp(0, 1)


def compare(
    program: Run, network: Run, sizes: Sequence[tuple[int, int, int]], channels: int, tolerance: float
) -> Difference:
    """Run both on images of these sizes; what was found is logged.

    Raises:
        RunError: the program fails, its output is not finite or of another size, or differs by more than ``tolerance``.
    """
    found = Difference(0.0, 0)
    for number, size in enumerate(sizes, 1):
        images = check_images(size, channels, seed=number)
        expected = network(images)
        B, h, w = size
        what = f"{B} image{'s' if B > 1 else ''} of {h}x{w}"
        try:
            output = program(images)
        except Exception as error:  # of whatever kind the runtime has
            raise RunError(f"the exported program fails with {what}: {first_line(error)}") from error
        here = _difference(output, expected, what)
        get_logger().info("export: check %d/%d, %s: %s", number, len(sizes), what, here)
        if not here.largest <= tolerance:
            raise RunError(
                f"with {what} the exported program's output differs from the network's by {here.largest:.1e} "
                f"({here.levels} of {LEVELS} levels), and {tolerance:.1e} is allowed (--tolerance); nothing was written"
            )
        found = Difference(max(found.largest, here.largest), max(found.levels, here.levels))
    return found


def _difference(output: Tensor, expected: Tensor, what: str) -> Difference:
    if output.shape != expected.shape:
        raise RunError(f"with {what} the exported program makes {list(output.shape)}, not {list(expected.shape)}")
    if not output.isfinite().all():
        raise RunError(f"with {what} the exported program's output holds NaN or inf")
    largest = float((output.double() - expected.double()).abs().max())
    a, b = ((value.clamp(0, 1) * LEVELS).round() for value in (output, expected))
    return Difference(largest, int((a - b).abs().max()))
