"""What size of input a network wants, as data: the caller pads and crops once, the network does neither."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from ops.pixels.reflect import reflect
from utils.checked import check_choice
from utils.errors import InputError

Fill = Literal["reflect", "replicate"]


@dataclasses.dataclass(frozen=True)
class SizeRule:
    """Sizes, in low-resolution pixels, that a network takes or prefers.

    Attributes:
        multiple: height and width must be multiples of this.
        minimum: height and width must be at least this.
        tile_multiple: tiles whose origin and size are multiples of this fit the network's own grid best.
        mode: how a caller fills the pixels that it adds.
        largest: (height, width) of the largest image that it takes; a caller cuts larger ones into tiles. None: any.
    """

    multiple: int = 1
    minimum: int = 1
    tile_multiple: int = 1
    mode: Fill = "reflect"
    largest: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_choice("SizeRule: mode", self.mode, Fill)
        for name in ("multiple", "minimum", "tile_multiple"):
            if getattr(self, name) < 1:
                raise InputError(f"SizeRule: {name} must be at least 1, got {getattr(self, name)}")
        if self.largest is not None and min(self.largest) < self.minimum:
            raise InputError(f"SizeRule: largest must be at least minimum, {self.minimum}, got {self.largest}")

    def padded(self, size: int) -> int:
        """The smallest allowed size that is not below ``size``."""
        return -(-max(size, self.minimum) // self.multiple) * self.multiple


def extended(x: Tensor, dim: int, length: int, mode: Fill) -> Tensor:
    """One axis of a tensor extended at its end to ``length``, which is no less than it has.

    "reflect" mirrors without repeating the edge, as often as it takes: what is added may be longer than the image.
    """
    n = x.shape[dim]
    if mode == "reflect":
        return reflect(x, dim, length)
    return x if length == n else x.index_select(dim, torch.arange(length, device=x.device).clamp(max=n - 1))
