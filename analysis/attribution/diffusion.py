"""How far an attribution map spreads: the Gini coefficient and the diffusion index (DI)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST = 1e-7  # added to every value, so that a map of zeros counts as spread evenly


def gini(values: NDArray[Any]) -> float:
    """The Gini coefficient of an array of any shape: 0 where all values are equal, near 1 where one has everything.

    ``sum_j (2j - N - 1) x_j / (N sum_j x_j)`` of the sorted values. Where there are negative ones the least is
    subtracted first.
    """
    x = np.sort(np.asarray(values, np.float64), axis=None)
    x = x - min(0.0, float(x[0])) + _LEAST
    n = x.size
    rank = 2 * np.arange(1, n + 1) - n - 1
    return float((rank * x).sum() / (n * x.sum()))


def diffusion_index(values: NDArray[Any]) -> float:
    """DI = 100 (1 - Gini): 100 for a map that is spread evenly, near 0 for one pixel.

    It depends on the size of the map: only maps of the same LR image can be compared.
    """
    return 100 * (1 - gini(values))
