"""What is said of all rows of an attention map: how far they look, how spread they are, what they lose.

Shapes: W windows, h heads, N queries and M keys of a window, Q of the queries; H W sides of a map; m representatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.attention.parts import parts
from archs.layers.places import NOWHERE, AttentionPlaces
from archs.observation import SeenAttention
from ops import AttentionCall

Floats = NDArray[np.floating]

FEW = 64
"""As many representatives have their weights drawn one by one."""


@dataclass(frozen=True)
class Means:
    """Of one attention, means over its windows and queries, for each head.

    Attributes:
        distance: [h] mean attention distance: Euclidean distance between query and key in their window, in pixels of
            the image, summed over the keys by weight (Nguyen et al., ICLR 2021, and FriedRiceLab's scripts).
        entropy: [h] of the rows, natural logarithm.
        lost: [h] weight on keys that are not in the map and copy nothing in it, in [0, 1].
        uniform: the distance where all keys count the same.
        count: queries of the mean.
    """

    distance: Floats
    entropy: Floats
    lost: Floats
    uniform: float
    count: int


@dataclass(frozen=True)
class Representatives:
    """Of an attention to squares of the map that stand for all of it (RGT's RG-SA).

    Attributes:
        grid: (rows, columns) of the squares.
        cell: their side.
        mean: [h, m] weight of each, mean over the map: which are used.
        entropy: [h, H, W] of each pixel's row, relative to log m: 0 for one representative, 1 for all alike.
        weights: [m, H, W] weight of each at each pixel, mean over the heads; None for more than 64.
    """

    grid: tuple[int, int]
    cell: int
    mean: Floats
    entropy: Floats
    weights: Floats | None


def rows_of(call: AttentionCall, windows: slice, queries: slice) -> Tensor:
    """Weights [W', h, Q, M] that sum to 1: without what is across a mask, divided by the sum of what is kept."""
    weights = call.weights(windows, queries)
    visible = call.visible(windows, queries)
    if visible is not None:
        weights = weights * visible[:, None]
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def counted(places: AttentionPlaces, windows: slice, queries: slice, first: int = 0) -> Tensor:
    """Which queries count, [W', Q]: those in the map or copies of it; ``first``: the window that begins the call."""
    return places.queries[first:][windows][:, queries] != NOWHERE


class Sums:
    """What adds up to :class:`Means` and :class:`Representatives`, call by call.

    Args:
        places: of the attention.
        heads: h.
        step: pixels of the image from one place of the map to the next.
    """

    def __init__(self, places: AttentionPlaces, heads: int, step: int = 1) -> None:
        self._places, self._step = places, step
        self._sums = np.zeros((3, heads))
        self._uniform = 0.0
        self._count = 0
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, seen: SeenAttention) -> None:
        """Look at all rows of a call."""
        places, call = self._places, seen.call
        for windows, queries in parts(call):
            weights = rows_of(call, windows, queries)  # [W', h, Q, M]
            some = counted(places, windows, queries, seen.first).to(weights.dtype)[:, None]  # [W', 1, Q]
            distances = self._step * places.distances(queries, weights.dtype)
            nowhere = (places.keys[seen.first :][windows] == NOWHERE).to(weights.dtype)
            entropy = torch.special.entr(weights).sum(-1)
            values = (
                torch.einsum("whqm,qm->whq", weights, distances),
                entropy,
                torch.einsum("whqm,wm->whq", weights, nowhere),
            )
            sums = torch.stack([(value * some).sum((0, 2)) for value in values])
            self._sums += sums.cpu().double().numpy()
            self._uniform += float((distances.mean(-1) * some.sum((0, 1))).sum())
            self._count += int(some.sum())
            if places.grid is not None:
                mean = (weights * some[..., None]).sum(2)[0]
                drawn = weights.mean(1)[0] if places.keys.shape[1] <= FEW else weights.new_empty(0)
                self._rows.append((mean.cpu(), entropy[0].cpu(), drawn.cpu()))

    def means(self) -> Means:
        """Of all rows so far."""
        distance, entropy, lost = self._sums / self._count
        return Means(distance, entropy, lost, self._uniform / self._count, self._count)

    def representatives(self) -> Representatives | None:
        """Of all rows so far; None where keys are no squares."""
        places = self._places
        if places.grid is None:
            return None
        means, entropies, weights = zip(*self._rows, strict=True)
        m = places.keys.shape[1]
        entropy = torch.cat(entropies, -1).unflatten(-1, places.size) / (math.log(m) if m > 1 else 1.0)
        drawn = torch.cat(weights).t().unflatten(-1, places.size).numpy() if m <= FEW else None
        total = torch.stack(means).sum(0) / self._count
        return Representatives(places.grid, places.cell, total.numpy(), entropy.numpy(), drawn)
