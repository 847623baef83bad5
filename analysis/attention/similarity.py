"""How alike the attention maps of a network's layers are.

Shapes: W windows, h heads, N queries and M keys of a window, L layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.attention.parts import parts
from analysis.attention.statistics import counted, rows_of
from archs.observation import SeenAttention


@dataclass(frozen=True)
class Similarity:
    """Between layers, means over windows, queries, and heads with the same number.

    Layers can be compared whose windows hold the same pixels and that have as many heads: in networks with shifted
    windows, layers of equal shift.

    Attributes:
        layers: numbers of the layers, L.
        cosine: [L, L] cosine of two rows; NaN where layers cannot be compared.
        jensen_shannon: [L, L] Jensen-Shannon divergence of two rows, natural logarithm: 0 for equal rows, log 2 for
            rows that have no key in common. NaN likewise.
    """

    layers: tuple[int, ...]
    cosine: NDArray[np.float64]
    jensen_shannon: NDArray[np.float64]


def similarity(layers: Sequence[int], seen: Sequence[Sequence[SeenAttention]]) -> Similarity:
    """Compare layers.

    Args:
        layers: their numbers.
        seen: the calls of each, all of one image.
    """
    cosine = np.full((len(layers), len(layers)), np.nan)
    divergence = cosine.copy()
    left = list(range(len(layers)))
    while left:
        group = [other for other in left if _comparable(seen[left[0]], seen[other])]
        left = [other for other in left if other not in group]
        found = _between([seen[member] for member in group])
        cosine[np.ix_(group, group)], divergence[np.ix_(group, group)] = found
    return Similarity(tuple(layers), cosine, divergence)


def _comparable(first: Sequence[SeenAttention], second: Sequence[SeenAttention]) -> bool:
    return len(first) == len(second) and all(
        a.part == b.part
        and a.first == b.first
        and (a.call.windows, a.call.heads) == (b.call.windows, b.call.heads)
        and a.places.alike(b.places)
        for a, b in zip(first, second, strict=True)
    )


def _between(group: Sequence[Sequence[SeenAttention]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine and divergence [l, l] of layers that can be compared."""
    sums = np.zeros((2, len(group), len(group)))
    count = 0
    for together in zip(*group, strict=True):
        first = together[0]
        for windows, queries in parts(first.call, maps=len(group)):
            some = counted(first.places, windows, queries, first.first)[:, None]  # [W', 1, Q]
            rows = [rows_of(seen.call, windows, queries) for seen in together]
            count += int(some.sum()) * first.call.heads
            for i, j in itertools.combinations_with_replacement(range(len(group)), 2):
                values = torch.stack([(value * some).sum() for value in _of_rows(rows[i], rows[j])])
                sums[:, i, j] += values.cpu().double().numpy()
    lower = np.tril_indices(len(group), -1)
    for matrix in sums:
        matrix[lower] = matrix.T[lower]
    return sums[0] / count, sums[1] / count


def _of_rows(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and Jensen-Shannon divergence of rows [W, h, N, M], each [W, h, N]."""
    entropy = torch.special.entr
    divergence = entropy((p + q) / 2).sum(-1) - (entropy(p).sum(-1) + entropy(q).sum(-1)) / 2
    return torch.nn.functional.cosine_similarity(p, q, -1), divergence.clamp_min(0)
