"""The bias tables of focused attention: which row of a table a query and a key take.

Shapes: w side of a window, N = w * w tokens in it, h heads, T = (2w-1)^2 rows of a table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.cache import cached_constant
from ops.window.relative_bias import RelativeBias


@cached_constant(16)
def token_positions(window: int, device: torch.device) -> Tensor:
    """Numbers p [N] int64: the row of a bias table for query i and key j is ``p[i] - p[j] + base_row(window)``."""
    row = torch.arange(window, device=device)
    return (row[:, None] * (2 * window - 1) + row).flatten()


@cached_constant(16)
def position_index(window: int, device: torch.device) -> Tensor:
    """Rows of a bias table for all queries and keys, [N, N] int64."""
    position = token_positions(window, device)
    return position[:, None] - position + base_row(window)


def base_row(window: int) -> int:
    """The row of a bias table for a query and a key at the same place."""
    return (window - 1) * 2 * window


def dense_bias(table: Tensor, window: int) -> Tensor:
    """A table [T, h or 1] -> the bias of all queries and keys, [h or 1, N, N]; its gradient sums in a fixed order."""
    return RelativeBias(table, position_index(window, table.device)).dense()


def expanded_bias(table: Tensor, window: int, heads: int) -> Tensor:
    """The same for all heads, [h, N, N]."""
    return dense_bias(table, window).expand(heads, -1, -1)


def pair_sums(pairs: Tensor, window: int) -> Tensor:
    """Numbers [h, N, N] summed by row of a bias table -> [T, h], in a fixed order.

    Pairs of tokens that are equally far apart lie on diagonals of a square of rows and one of columns. A zero more in
    each line, and lines that are shorter by one, put a diagonal into a column.
    """
    heads, side, across = len(pairs), window, 2 * window - 1
    by_rows = pairs.view(heads, side, side, side, side).transpose(2, 3).flip(2, 4)  # query's row, key's row, ...
    by_columns = _diagonal_sums(by_rows.reshape(-1, side, side))  # by how far apart the columns are
    by_distance = by_columns.view(heads, side, side, across).permute(0, 3, 1, 2)
    sums = _diagonal_sums(by_distance.reshape(-1, side, side)).view(heads, across, across)
    return sums.permute(2, 1, 0).reshape(across * across, heads)


def _diagonal_sums(squares: Tensor) -> Tensor:
    """[n, w, w] -> [n, 2w-1]: sums where row and column sum to the same."""
    count, side, _ = squares.shape
    padded = F.pad(squares, (0, side)).view(count, -1)[:, : side * (2 * side - 1)]
    return padded.view(count, side, -1).sum(1)
