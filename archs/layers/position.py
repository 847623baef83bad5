"""Which row of a table of position biases belongs to a query and a key of a window; position_table.py resizes tables.

Shapes: h w sides of the window of the queries, eh ew of the keys where they reach further; n heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archs.layers.window import Pair
from ops.cache import cached_constant


@cached_constant(64)
def relative_position_index(window: Pair, device: torch.device) -> Tensor:
    """Rows for queries and keys of the same window, by where the query is as seen from the key.

    Args:
        window: (h, w).
        device: of the result.

    Returns:
        [h*w, h*w] int64, from 0 to (2h - 1) (2w - 1) - 1; row-major in the displacement.
    """
    h, w = window
    down = _differences(h, h, device)  # key - query
    right = _differences(w, w, device)
    return _joined(h - 1 - down, w - 1 - right, 2 * w - 1)


def published_overlapping_index(window: Pair, extended: Pair, device: torch.device) -> Tensor:
    """What HAT's files hold for keys of an extended window: key seen from query, partly negative.

    Negative numbers count from the end of a table of (h + eh - 1) (w + ew - 1) rows.

    Args:
        window: (h, w).
        extended: (eh, ew).
        device: of the result.

    Returns:
        [h*w, eh*ew] int64.
    """
    (h, w), (eh, ew) = window, extended
    down = _differences(h, eh, device) + h - eh + 1
    right = _differences(w, ew, device) + w - ew + 1
    return _joined(down, right, w + ew - 1)


@cached_constant(64)
def overlapping_position_index(window: Pair, extended: Pair, device: torch.device) -> Tensor:
    """:func:`published_overlapping_index` as rows that count from 0; each row belongs to one displacement."""
    (h, w), (eh, ew) = window, extended
    return published_overlapping_index(window, extended, device) % ((h + eh - 1) * (w + ew - 1))


def bias_by_displacement(table: Tensor, window: Pair) -> Tensor:
    """The bias of each query-key pair of a window from a table over the displacements, key minus query.

    No index: the rows that a query takes are a window of the table, so the bias is the table's own windows, last one
    first, and the gradient of the table adds them up again.

    Args:
        table: [n, (2h - 1) (2w - 1)], row-major in the displacement.
        window: (h, w).

    Returns:
        [n, h*w, h*w], float32 at least, differentiable with respect to the table.
    """
    h, w = window
    # The gradient sums up to h * w terms: too many for half precision.
    by_side = table.to(torch.promote_types(table.dtype, torch.float32)).view(-1, 2 * h - 1, 2 * w - 1)
    # [n, h, w, h, w]: key (y, x) of query (i, j) is at row h - 1 - i + y, column w - 1 - j + x.
    return by_side.unfold(1, h, 1).unfold(2, w, 1).flip(1, 2).reshape(-1, h * w, h * w)


def _differences(queries: int, keys: int, device: torch.device) -> Tensor:
    """Key minus query along an axis, [queries, keys], each counted from its own window's corner."""
    return torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None]


def _joined(down: Tensor, right: Tensor, row_length: int) -> Tensor:
    """[h, eh] and [w, ew] -> [h*w, eh*ew]."""
    both = down[:, None, :, None] * row_length + right[None, :, None, :]  # [h, w, eh, ew]
    return both.flatten(2).flatten(0, 1)
