"""Square crops of one size from pictures of any size: the samples of statistics over features.

Shapes: n crops, c channels, S side in low-resolution pixels, s scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.images import Picture
from utils.errors import InputError


@dataclass(frozen=True)
class Crops:
    """Crops of pictures.

    Attributes:
        lr: the networks' input, [n, c, S, S].
        hr: the same places of the HR pictures, uint8 [n, s*S, s*S, 3]; None where some picture has none.
        pictures: names of the pictures that they are from, each once.
        too_small: names of pictures that were left out.
    """

    lr: Tensor
    hr: NDArray[np.uint8] | None
    pictures: tuple[str, ...]
    too_small: tuple[str, ...]

    def batches(self, size: int, least: int = 1) -> Iterator[Tensor]:
        """The inputs, at most ``size`` at a time; a rest of less than ``least`` is left out."""
        return (batch for batch in self.lr.split(size) if len(batch) >= least)


@dataclass(frozen=True)
class _Crop:
    lr: Tensor
    hr: NDArray[np.uint8] | None


def square_crops(pictures: Iterable[Picture], side: int, count: int, scale: float) -> Crops:
    """The innermost crop of each picture, then those beside it, until there are enough.

    Each picture is cut into squares that do not overlap. The first crops are the innermost of the pictures in their
    order, then come the next ones of each, and so on; so pictures count alike, and the same call gives the same crops.
    Not more than ``count`` pictures are read.

    Args:
        pictures: whose inputs have the same number of channels.
        side: S.
        count: n, at most.
        scale: s, of the HR pictures if there are some.

    Raises:
        InputError: ``side`` or ``count`` is below 1, or no picture is large enough.
    """
    if side < 1 or count < 1:
        raise InputError(f"crops: side and number must be at least 1, got {side} and {count}")
    found: list[list[_Crop]] = []
    names: list[str] = []
    small: list[str] = []
    for picture in pictures:
        crops = [_cut(picture, top, left, side, scale) for top, left in _places(picture.lr.shape[-2:], side)[:count]]
        if crops:
            found.append(crops)
            names.append(picture.name)
        else:
            small.append(picture.name)
        if len(found) == count:
            break
    if not found:
        raise InputError(
            f"no picture has {side} x {side} low-resolution pixels; give larger ones, or smaller crops with --side"
        )
    rounds = max(map(len, found))
    chosen = [crops[number] for number in range(rounds) for crops in found if number < len(crops)][:count]
    hr = [crop.hr for crop in chosen if crop.hr is not None]
    return Crops(
        torch.cat([crop.lr for crop in chosen]), np.stack(hr) if len(hr) == len(chosen) else None, tuple(names),
        tuple(small),
    )  # fmt: skip


def _places(size: torch.Size, side: int) -> list[tuple[int, int]]:
    """Top and left of the squares that fit beside one another, the innermost first."""
    rows, columns = (_starts(length, side) for length in size)
    middle = [(length - side) / 2 for length in size]
    places = [(top, left) for top in rows for left in columns]
    return sorted(places, key=lambda place: max(abs(a - b) for a, b in zip(place, middle, strict=True)))


def _starts(length: int, side: int) -> list[int]:
    """Where pieces of a side begin, around the middle."""
    pieces = length // side
    first = (length - pieces * side) // 2
    return [first + number * side for number in range(pieces)]


def _cut(picture: Picture, top: int, left: int, side: int, scale: float) -> _Crop:
    lr = picture.lr[..., top : top + side, left : left + side].clone()  # not the whole picture with it
    if picture.hr is None:
        return _Crop(lr, None)
    whole = int(scale)
    rows, columns = (slice(whole * start, whole * (start + side)) for start in (top, left))
    return _Crop(lr, picture.hr[rows, columns].copy())
