"""How an image is cut into tiles: which pixels each tile reads, and which of its output are kept.

Lengths are low-resolution pixels. Alignment is what the starts of tiles should be multiples of: a network's windows and
grids then fall on the same pixels as in the whole image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from archs.layers.size import SizeRule
from utils.errors import InputError


class Span(NamedTuple):
    """One tile along one axis: what is read, and the part of it that is kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


class Tiling(Protocol):
    """A way of cutting an axis into tiles; the kept parts cover it without gap or overlap."""

    @property
    def repeats_edge(self) -> bool:
        """Whether the mirror image of :meth:`extended` begins with the edge pixel."""

    def extended(self, length: int) -> int:
        """The length to which the image is mirrored first; usually ``length`` itself."""

    def spans(self, length: int, alignment: int) -> list[Span]:
        """The tiles of an axis of ``length`` pixels, from the first to the last; they cover ``extended(length)``."""

    def __str__(self) -> str:
        """How images are cut, as reports say it after "images"."""


@dataclass(frozen=True)
class OverlappingTiles:
    """Tiles of one size that overlap; seams run through the middle of the overlaps.

    Exact for networks whose receptive radius is at most half of the overlap.

    Attributes:
        side: of a tile, overlap included.
        overlap: pixels that neighbours share, at least.
    """

    side: int
    overlap: int
    repeats_edge: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"in tiles of {self.side} pixels, {self.overlap} of them shared with the next"

    def extended(self, length: int) -> int:
        """``length``."""
        return length

    def spans(self, length: int, alignment: int) -> list[Span]:
        """See :func:`tile_spans`."""
        return tile_spans(length, self.side, self.overlap, alignment)


@dataclass(frozen=True)
class GrownTiles:
    """HAT's ``tile`` option: side by side, each read with its surroundings as far as the image goes.

    Side and surroundings are raised to multiples of the alignment, which HAT's published code silently needs.

    Attributes:
        side: of the part that is kept, ``tile.tile_size``.
        around: pixels read on each side of it, ``tile.tile_pad``.
    """

    side: int
    around: int
    repeats_edge: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"in tiles of {self.side} pixels, read with {self.around} around (HAT's tile)"

    def extended(self, length: int) -> int:
        """``length``."""
        return length

    def spans(self, length: int, alignment: int) -> list[Span]:
        """Kept parts of ``side`` pixels; the last may be shorter."""
        side, around = (-(-value // alignment) * alignment for value in (self.side, self.around))
        return [
            Span(max(0, start - around), min(length, start + side + around), start, min(length, start + side))
            for start in range(0, length, side)
        ]


@dataclass(frozen=True)
class EqualTiles:
    """RGT's ``val.use_chop``: as few equal tiles as keep below ``side``, each read with its surroundings.

    The image is mirrored until the tiles are equal. 199 pixels make one tile, 200 make two, as published.

    Attributes:
        side: every tile keeps fewer pixels than this.
        around: pixels read on each side of it; None: a tenth of the tile, rounded down.
        repeats_edge: see :class:`Tiling`.
    """

    side: int = 200
    around: int | None = 16
    repeats_edge: bool = True

    def __str__(self) -> str:
        around = "a tenth" if self.around is None else f"{self.around} pixels"
        return f"in equal tiles where a side has {self.side} pixels or more, read with {around} around"

    def extended(self, length: int) -> int:
        """A multiple of the number of tiles."""
        count = length // self.side + 1
        return -(-length // count) * count

    def spans(self, length: int, alignment: int) -> list[Span]:
        """Equal kept parts, wherever they begin: the published rule knows no alignment."""
        end = self.extended(length)
        each = end // (length // self.side + 1)
        around = each // 10 if self.around is None else self.around
        return [
            Span(max(0, start - around), min(end, start + each + around), start, start + each)
            for start in range(0, end, each)
        ]


PFT_TILES = EqualTiles(256, around=None, repeats_edge=False)
"""How PFT's authors cut images in their tests, for memory; the scores in their paper were measured so."""


def tile_spans(length: int, tile: int, overlap: int, alignment: int = 1) -> list[Span]:
    """The tiles along an axis of ``length`` pixels, from the first to the last.

    Starts are multiples of ``alignment``, neighbours share at least ``overlap`` pixels, and the kept parts cover the
    axis without gap or overlap. The last tile ends with the axis; it is as long as alignment allows.

    Args:
        length: pixels to cover.
        tile: length of a tile, at most; at least ``overlap + alignment``.
        overlap: pixels shared by neighbours, at least.
        alignment: of the starts.
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    step = (tile - overlap) // alignment * alignment
    last = -(-(length - tile) // alignment) * alignment
    starts = [*range(0, last, step), last]
    stops = [*(start + tile for start in starts[:-1]), length]
    seams = [(start + stop) // 2 for start, stop in zip(starts[1:], stops[:-1], strict=True)]
    return [Span(*item) for item in zip(starts, stops, [0, *seams], [*seams, length], strict=True)]


def aligned_tile(tile: int, overlap: int, rule: SizeRule) -> int:
    """``tile`` lowered to the network's alignment.

    Raises:
        InputError: tiles of that size cannot work with this overlap and this network.
    """
    if overlap < 0:
        raise InputError(f"the overlap of tiles must be 0 or more, got {overlap}")
    alignment = math.lcm(rule.multiple, rule.tile_multiple)
    aligned = tile // alignment * alignment
    # The step from tile to tile is a multiple of the alignment too; the shortest tile is the last one.
    least = max(overlap + alignment, rule.minimum + alignment - 1)
    least = -(-least // alignment) * alignment
    if aligned < least:
        raise InputError(
            f"tiles of {tile} pixels are too small for this network with an overlap of {overlap}: give at least "
            f"{least}, or a smaller overlap"
        )
    if rule.largest is not None and aligned > min(rule.largest):
        height, width = rule.largest
        raise InputError(
            f"tiles of {tile} pixels are larger than this network takes, {width} x {height} (width x height); smaller "
            "ones will do, or none: larger images are cut into tiles of that size"
        )
    return aligned


def largest_tiles(length: int, most: int, overlap: int, rule: SizeRule) -> OverlappingTiles:
    """Tiles for one axis of images that are larger than a network takes.

    Args:
        length: of the axis; what the network takes as a whole is one tile.
        most: pixels of that axis that the network takes.
        overlap: pixels that neighbours share, at least; no more than half a tile.
        rule: of the network.

    Raises:
        InputError: the network's alignment leaves no room for tiles.
    """
    alignment = math.lcm(rule.multiple, rule.tile_multiple)
    side = most // rule.multiple * rule.multiple
    least = rule.minimum + alignment - 1  # the last tile is the shortest
    if length > most and side < least:
        raise InputError(
            f"the network takes at most {most} of {length} pixels, and tiles for it, which begin at multiples of "
            f"{alignment}, have at least {least}; export it for larger images"
        )
    return OverlappingTiles(max(side, 1), max(0, min(overlap, side // 2, side - alignment)))
