"""Images as one of their flips and rotations shows them, extended to what a network wants, and cut into tiles.

Nothing is copied but the tiles: a view is a list of positions along each axis.

Shapes: B images, C channels, h w low-resolution pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from archs.layers.size import SizeRule, extended
from models.inference.tiling import Span, Tiling
from ops.pixels.reflect import reflect


class Tile(NamedTuple):
    """One tile of a view, and where the part of it that is kept begins in the images."""

    row: Span
    column: Span
    left: int


class Band(NamedTuple):
    """The tiles that fill the rows from ``top`` to ``bottom`` of the images, which lie side by side."""

    top: int
    bottom: int
    tiles: list[Tile]


class _Axis(NamedTuple):
    """One axis of a view.

    Attributes:
        length: pixels, without what the axis is extended by.
        backwards: whether it runs from the end of the images' axis to its start.
        positions: where in the images every pixel is found, extension included.
        spans: the tiles; what they keep ends at ``length``.
    """

    length: int
    backwards: bool
    positions: Tensor
    spans: list[Span]

    def start(self, span: Span) -> int:
        """The first pixel of the images that a tile fills."""
        return self.length - span.keep_stop if self.backwards else span.keep_start

    def in_order(self) -> list[Span]:
        """The tiles from the start to the end of the images' axis."""
        return self.spans[::-1] if self.backwards else self.spans


class View:
    """One of the eight flips and rotations of images, extended to the right and below.

    Args:
        images: [B, C, h, w].
        flip: mirrored from left to right first.
        turns: then turned left by so many quarters.
        rule: the sizes to which the view is extended.
        tiling: how it is cut; None: into one tile; two of them: how the rows of the view are cut, and its columns.
    """

    def __init__(
        self, images: Tensor, flip: bool, turns: int, rule: SizeRule, tiling: Tiling | tuple[Tiling, Tiling] | None
    ) -> None:
        self.images, self.flip, self.turns = images, flip, turns
        self._transposed = turns % 2 == 1
        h, w = images.shape[-2:]
        rows, columns = tiling if isinstance(tiling, tuple) else (tiling, tiling)
        if self._transposed:
            rows, columns = columns, rows
        down = _axis(h, turns in (2, 3), rule, rows)
        right = _axis(w, flip != (turns in (1, 2)), rule, columns)
        self._down, self._right = down, right  # the axes of the view that show the rows and the columns of the images

    @property
    def tiles(self) -> int:
        """How many there are."""
        return len(self._down.spans) * len(self._right.spans)

    def bands(self) -> list[Band]:
        """The tiles, ordered as the rows of the images are, from the top to the bottom."""
        bands = []
        for across in self._down.in_order():
            tiles = []
            for along in self._right.in_order():
                row, column = (along, across) if self._transposed else (across, along)
                tiles.append(Tile(row, column, self._right.start(along)))
            top = self._down.start(across)
            bands.append(Band(top, top + across.keep_stop - across.keep_start, tiles))
        return bands

    def patch(self, tile: Tile) -> Tensor:
        """What a tile reads, [B, C, rows, columns]."""
        across, along = (tile.column, tile.row) if self._transposed else (tile.row, tile.column)
        pixels = _selected(self.images, -2, self._down.positions[across.start : across.stop])
        pixels = _selected(pixels, -1, self._right.positions[along.start : along.stop])
        return pixels.transpose(-2, -1) if self._transposed else pixels

    def turned_back(self, part: Tensor) -> Tensor:
        """A part of the view [..., rows, columns] as the images show it."""
        if self.turns:
            part = torch.rot90(part, -self.turns, (-2, -1))
        return part.flip(-1) if self.flip else part


def pad_to_rule(x: Tensor, rule: SizeRule) -> Tensor:
    """Extend [..., h, w] to the right and below to a size that the rule allows.

    "reflect" mirrors without repeating the edge, as often as it takes: a padding longer than the image is fine.
    """
    for dim in (-2, -1):
        x = _padded(x, dim, rule)
    return x


def _axis(length: int, backwards: bool, rule: SizeRule, tiling: Tiling | None) -> _Axis:
    positions = torch.arange(length)
    positions = _padded(positions.flip(0) if backwards else positions, 0, rule)
    padded = len(positions)
    if tiling is None:
        return _Axis(length, backwards, positions, [Span(0, padded, 0, length)])
    spans = tiling.spans(padded, math.lcm(rule.multiple, rule.tile_multiple))
    kept = [span._replace(keep_stop=min(span.keep_stop, length)) for span in spans if span.keep_start < length]
    mirrored = _mirrored if tiling.repeats_edge else _reflected
    return _Axis(length, backwards, mirrored(positions, tiling.extended(padded)), kept)


def _padded(x: Tensor, dim: int, rule: SizeRule) -> Tensor:
    """One axis extended to a length that the rule allows."""
    return extended(x, dim, rule.padded(x.shape[dim]), rule.mode)


def _mirrored(positions: Tensor, length: int) -> Tensor:
    """[n] extended to ``length`` by its mirror image, last element included."""
    n = len(positions)
    indices = torch.arange(length)
    return positions[torch.where(indices < n, indices, 2 * n - 1 - indices).clamp(min=0)]


def _reflected(positions: Tensor, length: int) -> Tensor:
    """[n] extended to ``length`` by its mirror image, without the last element."""
    return reflect(positions, 0, length)


def _selected(x: Tensor, dim: int, positions: Tensor) -> Tensor:
    """The pixels at some positions of an axis; no copy where they follow each other."""
    first = int(positions[0])
    if torch.equal(positions, torch.arange(first, first + len(positions))):
        return x.narrow(dim, first, len(positions))
    return x.index_select(dim, positions.to(x.device))
