"""Tables of relative position biases, resized to windows of another size when weights are loaded.

position.py says which row of a table a query and a key take; here a table is looked at as a whole. A table holds one
value per displacement between a query and a key. Laid out by displacement it is a small picture with displacement zero,
or the offset that centres the two windows, in the middle; that picture is resized, so what was learned for a
displacement goes to the one as far out in proportion.

Shapes: L side of the picture, 2w - 1 for windows of side w, w + e - 1 where keys reach out to windows of side e; n
heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.layers.window import Pair


@runtime_checkable
class _ReachingOut(Protocol):
    """A module whose keys come from a larger window around that of the queries."""

    window: Pair
    extended: Pair


class _Layout(NamedTuple):
    """How a table is stored."""

    rows_first: bool
    """[L*L, n] instead of [n, L*L]."""
    reach: float
    """e / w: above 1 where keys reach out of the window, whose rows are counted in HAT's way."""


def resized_tables(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The position tables of a state dict that are those of another window, as the network's own window wants them.

    Args:
        network: its modules hold the tables, under the names of the published networks.
        state: is not changed.

    Returns:
        Key -> resized table; only those that differ in size and in nothing else.
    """
    result = {}
    for key, own in network.state_dict().items():
        layout = _layout(network, key)
        if layout is None or key not in state or state[key].shape == own.shape:
            continue
        table = _resized(state[key], own, layout)
        if table is not None:
            result[key] = table
    return result


def _layout(network: nn.Module, key: str) -> _Layout | None:
    parent, _, name = key.rpartition(".")
    if name not in ("relative_position_bias_table", "relative_position_bias"):
        return None
    module = network.get_submodule(parent)
    reach = module.extended[0] / module.window[0] if isinstance(module, _ReachingOut) else 1.0
    return _Layout(rows_first=name.endswith("_table"), reach=reach)


def _resized(table: Tensor, own: Tensor, layout: _Layout) -> Tensor | None:
    """The table in the shape of ``own``; None where no resizing can give it."""
    rows, heads = (0, 1) if layout.rows_first else (1, 0)
    if table.dim() != 2 or table.shape[heads] != own.shape[heads]:
        return None
    side, wanted = math.isqrt(table.shape[rows]), math.isqrt(own.shape[rows])
    if side**2 != table.shape[rows] or wanted**2 != own.shape[rows]:
        return None
    by_head = (table.t() if layout.rows_first else table).to(torch.float32)  # [n, L*L]
    if layout.reach > 1:
        order = _displacement_rows(side, layout.reach)
        if order is None:
            return None
        by_head = by_head[:, order]
    picture = by_head.unflatten(1, (side, side))[None]
    new = F.interpolate(picture, size=(wanted, wanted), mode="bicubic", align_corners=False)[0].flatten(1)
    if layout.reach > 1:
        order = _displacement_rows(wanted, layout.reach)
        if order is None:
            return None
        new = torch.empty_like(new).index_copy_(1, order, new)
    return (new.t() if layout.rows_first else new).to(table.dtype).contiguous()


def _displacement_rows(side: int, reach: float) -> Tensor | None:
    """The row of each displacement, [L*L], from top left to bottom right; None where no window has such a table.

    HAT counts displacements from 2 - e to w, row-major with the row length L, and negative numbers from the end.
    """
    window = (side + 1) / (1 + reach)
    if window != int(window):
        return None
    extended = side + 1 - int(window)
    offsets = torch.arange(side) + 2 - extended
    return ((offsets[:, None] * side + offsets) % side**2).flatten()
