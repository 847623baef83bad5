"""Where the tokens of attention lie in the map that an attention module is given, for those who look at its weights.

Shapes: H W sides of the map, h w sides of a window, n windows of a map, N queries and M keys of a window. The map may
have been made larger inside the module, to H' x W', by mirror images of itself or by nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from archs.layers.window import Pair
from ops.pixels.reflect import reflect

NOWHERE = -1
"""The place of a token that is not in the map, nor a copy of anything in it."""


@dataclass(frozen=True, eq=False)
class AttentionPlaces:
    """The tokens of one attention, for one image. A place is the number ``row * W + column`` in a map of H x W.

    Attributes:
        size: (H, W).
        queries: [n, N] int64, the place of each query. Mirror images have the place that they copy.
        keys: [n, M] int64, likewise.
        own: [n, N] bool, which queries are the places themselves: each place of the map is that of one such query.
        query_offsets: [N, 2], rows and columns of the queries from a corner of their window, in steps of the map.
        key_offsets: [M, 2], those of the keys from the same corner.
        cell: a key stands for a square of this side, with its place at the upper left; 1 for the place alone.
        grid: (rows, columns) of the keys, row-major, where they stand for squares that cover the map.
    """

    size: Pair
    queries: Tensor
    keys: Tensor
    own: Tensor
    query_offsets: Tensor
    key_offsets: Tensor
    cell: int = 1
    grid: Pair | None = None

    def find(self, row: int, column: int) -> Pair:
        """The window and the query that a place of the map is."""
        window, query = torch.nonzero((self.queries == row * self.size[1] + column) & self.own)[0].tolist()
        return window, query

    def alike(self, other: AttentionPlaces) -> bool:
        """Whether the windows of both hold the same queries and keys, so that their attention can be compared."""
        return (
            self.size == other.size
            and self.cell == other.cell
            and torch.equal(self.queries, other.queries)
            and torch.equal(self.keys, other.keys)
        )

    def covered(self, keys: Tensor) -> Tensor:
        """Places that keys stand for: [..] places of keys -> [.., cell * cell]."""
        if self.cell == 1:
            return keys[..., None]
        inside = torch.arange(self.cell, device=keys.device)
        steps = (inside[:, None] * self.size[1] + inside).flatten()
        return torch.where(keys[..., None] == NOWHERE, NOWHERE, keys[..., None] + steps)

    def distances(self, queries: slice, dtype: torch.dtype) -> Tensor:
        """From some queries to the middle of what each key stands for, [Q, M], in steps of the map."""
        middle = self.key_offsets + (self.cell - 1) / 2
        apart = (self.query_offsets[queries, None] - middle).to(dtype)  # [Q, M, 2], exact
        return apart.square().sum(-1).sqrt()


def window_places(
    rows: Tensor, columns: Tensor, window: Pair, *, shift: Pair = (0, 0), extended: Pair | None = None
) -> AttentionPlaces:
    """The places of windows that cover a map, or of windows and the larger windows around them.

    Args:
        rows: [H'] int64 from :func:`unpadded`, :func:`reflected` or :func:`framed`: which row of the map each row of
            the larger map shows, :data:`NOWHERE` for none. H' is a multiple of h.
        columns: [W'], likewise.
        window: (h, w).
        shift: by how much the larger map was rolled up and left before windows were cut.
        extended: (eh, ew), sides of the windows of the keys, about the same centres; None for those of the queries.
            What they hold beyond the rolled map is nowhere.
    """
    reach = window if extended is None else extended
    row_queries, row_keys = _along(rows, window[0], shift[0], reach[0])
    column_queries, column_keys = _along(columns, window[1], shift[1], reach[1])
    width = int(columns.max()) + 1
    size = (int(rows.max()) + 1, width)
    row_own, column_own = (_along(_own(x), w, s, w)[0] for x, w, s in zip((rows, columns), window, shift, strict=True))
    own = row_own[:, None, :, None] + column_own[None, :, None, :] == 2
    return AttentionPlaces(
        size=size,
        queries=_joined(row_queries, column_queries, width),
        keys=_joined(row_keys, column_keys, width),
        own=own.flatten(2).flatten(0, 1),
        query_offsets=_offsets(window, (0, 0), rows.device),
        key_offsets=_offsets(reach, ((window[0] - reach[0]) // 2, (window[1] - reach[1]) // 2), rows.device),
    )


def cell_places(size: Pair, cell: int, device: torch.device) -> AttentionPlaces:
    """The places where all of a map asks for squares of it: those of a grid that fit, row-major.

    Args:
        size: (H, W).
        cell: side of the squares, at most that of the map; the map's rest at the right and bottom is in none.
        device: of the result.
    """
    (H, W), grid = size, (size[0] // cell, size[1] // cell)
    place = torch.arange(H * W, device=device)
    corners = cell * _offsets(grid, (0, 0), device)
    return AttentionPlaces(
        size=size,
        queries=place[None],
        keys=(corners[:, 0] * W + corners[:, 1]).long()[None],
        own=torch.ones_like(place, dtype=torch.bool)[None],
        query_offsets=_offsets(size, (0, 0), device),
        key_offsets=corners,
        cell=cell,
        grid=grid,
    )


def unpadded(length: int, device: torch.device) -> Tensor:
    """An axis that is what it is, [length]."""
    return torch.arange(length, device=device)


def reflected(length: int, multiple: int, device: torch.device) -> Tensor:
    """An axis extended at its end to a multiple, by its mirror image without the edge."""
    return reflect(unpadded(length, device), 0, -(-length // multiple) * multiple)


def framed(length: int, multiple: int, device: torch.device) -> Tensor:
    """An axis extended at its end to a multiple by tokens that are nowhere."""
    return F.pad(unpadded(length, device), (0, -length % multiple), value=NOWHERE)


def _along(index: Tensor, side: int, shift: int, reach: int) -> tuple[Tensor, Tensor]:
    """Rows (or columns) of the queries and of the keys of each window, [windows, side] and [windows, reach]."""
    rolled = index.roll(-shift)
    before = (reach - side) // 2
    around = F.pad(rolled, (before, before), value=NOWHERE)
    return rolled.unfold(0, side, side), around.unfold(0, reach, side)


def _own(index: Tensor) -> Tensor:
    """1 where a row (or column) is the map's own, 0 where it is a copy or nowhere."""
    return (index == torch.arange(len(index), device=index.device)).long()


def _joined(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """[a, h] rows and [b, w] columns -> places [a*b, h*w]."""
    down, right = rows[:, None, :, None], columns[None, :, None, :]
    places = torch.where((down == NOWHERE) | (right == NOWHERE), NOWHERE, down * width + right)
    return places.flatten(2).flatten(0, 1)


def _offsets(sides: Pair, corner: Pair, device: torch.device) -> Tensor:
    """Rows and columns of a rectangle's places, row-major, [rows * columns, 2] float32."""
    down, right = (torch.arange(side, device=device) + first for side, first in zip(sides, corner, strict=True))
    return torch.cartesian_prod(down, right).view(-1, 2).float()
