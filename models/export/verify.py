"""Exported programs compared with the network, on images of sizes that the export has not seen.

Shapes: B images, c channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.errors import RunError
from utils.log import get_logger
from utils.wording import first_line

LEVELS = 255
"""Of a picture of 8 bits, above 0."""

Inputs = Sequence[Tensor]
"""What a program is given: [B, c, h, w] in [0, 1], and where the scale is an input, that."""
Run = Callable[[Inputs], Tensor]
"""Inputs -> [B, c, s*h, s*w]."""


class Case(NamedTuple):
    """One check.

    Attributes:
        batch: B.
        height: h.
        width: w.
        scale: s, where it is an input.
    """

    batch: int
    height: int
    width: int
    scale: float | None = None

    def __str__(self) -> str:
        images = f"{self.batch} image{'s' if self.batch > 1 else ''} of {self.height}x{self.width}"
        return images if self.scale is None else f"{images} at x{self.scale:g}"


@dataclasses.dataclass(frozen=True)
class Difference:
    """What lies between two outputs.

    Attributes:
        largest: between two values, in the range 0 to 1.
        levels: between two values of pictures of 8 bits.
    """

    largest: float = 0.0
    levels: int = 0

    def __str__(self) -> str:
        return f"{self.largest:.1e}, {self.levels} of {LEVELS} levels"

    def or_more(self, other: Difference) -> Difference:
        """The larger of each."""
        return Difference(max(self.largest, other.largest), max(self.levels, other.levels))


class Findings(NamedTuple):
    """What the checks found.

    Attributes:
        program: largest difference of the program from the network in the program's precision.
        precision: of the program from the network in float32.
    """

    program: Difference = Difference()
    precision: Difference = Difference()


def unseen_cases(least: int, most: int | None, window: int, scales: Sequence[float] = ()) -> list[Case]:
    """Three checks: one pixel more than the least, odd sizes, multiples of the window.

    Args:
        least: height and width of the smallest image that the program takes.
        most: of the largest; None for any.
        window: side of the network's windows, or of whatever else its grid is made of.
        scales: one for each check, where the scale is an input.
    """
    window = max(window, 8)
    sizes = [(1, least + 1, least + 1), (3, window + 1, 2 * window + 3), (2, 2 * window, window)]
    wanted: list[float | None] = list(scales) or [None] * len(sizes)

    def fitted(side: int) -> int:
        return min(max(side, least), most or side)

    return [Case(b, fitted(h), fitted(w), scale) for (b, h, w), scale in zip(sizes, wanted, strict=True)]


def check_images(case: Case, channels: int, seed: int) -> Tensor:
    """Images with smooth parts, edges and noise: [B, c, h, w] in [0, 1]."""
    B, h, w = case[:3]
    random = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(B, channels, 4, 4, generator=random), (h, w), mode="bicubic")
    blocks = F.interpolate(torch.rand(B, channels, 5, 3, generator=random), (h, w), mode="nearest")
    noise = torch.rand(B, channels, h, w, generator=random)
    return (0.5 * smooth + 0.4 * blocks + 0.1 * noise).clamp(0, 1)


def compare(
    program: Run,
    network: Callable[[Tensor, Case], Tensor],
    exact: Callable[[Tensor, Case], Tensor],
    cases: Sequence[Case],
    channels: int,
    tolerance: float,
) -> Findings:
    """Run all of them on the same images; what is found is logged.

    Args:
        program: what was exported.
        network: in the program's precision.
        exact: in float32; may be the same.
        cases: the checks.
        channels: c.
        tolerance: allowed difference of the program from the network, in the range 0 to 1.

    Raises:
        RunError: the program fails, its output is not finite or of another size, or differs by more than ``tolerance``.
    """
    found = Findings()
    for number, case in enumerate(cases, 1):
        images = check_images(case, channels, seed=number)
        inputs = [images] if case.scale is None else [images, torch.tensor(case.scale)]
        try:
            output = program(inputs)
        except Exception as error:  # of whatever kind the runtime has
            raise RunError(f"the exported program fails with {case}: {first_line(error)}") from error
        expected = network(images, case)
        here = _difference(output, expected, case)
        precise = here if exact is network else _difference(output, exact(images, case), case)
        get_logger().info("export: check %d/%d, %s: largest difference %s", number, len(cases), case, here)
        if not here.largest <= tolerance:
            raise RunError(
                f"with {case} the exported program's output differs from the network's by {here.largest:.1e} "
                f"({here.levels} of {LEVELS} levels), and {tolerance:.1e} is allowed (--tolerance); nothing was written"
            )
        found = Findings(found.program.or_more(here), found.precision.or_more(precise))
    return found


def _difference(output: Tensor, expected: Tensor, case: Case) -> Difference:
    if output.shape != expected.shape:
        raise RunError(f"with {case} the exported program makes {list(output.shape)}, not {list(expected.shape)}")
    if not output.isfinite().all():
        raise RunError(f"with {case} the exported program's output holds NaN or inf; nothing was written")
    largest = float((output.double() - expected.double()).abs().max())
    a, b = ((value.clamp(0, 1) * LEVELS).round() for value in (output, expected))
    return Difference(largest, int((a - b).abs().max()))
