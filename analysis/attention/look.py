"""A network runs over an image once, and its attention is looked at on the way.

Shapes: c channels, h w sides of the image; n heads, H W sides of the map that a layer is given, M keys of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.attention.similarity import Similarity, similarity
from analysis.attention.statistics import Floats, Means, Representatives, Sums
from analysis.subjects import forward
from archs.contract import image_axis
from archs.layers.places import NOWHERE, AttentionPlaces
from archs.observation import SeenAttention, attention_modules, attention_seen_by
from utils.errors import InputError

Pixel = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """Where one pixel of the image looks in one layer.

    Attributes:
        layer: number of the layer, from 0.
        pixel: (row, column) in the image.
        weights: [n, h, w], what each pixel of the image counts; mirror images are added to what they copy, and a
            square's weight is shared by its pixels.
        lost: [n], weight on keys that are not in the image. With it ``weights`` sum to 1, or to less where a layer has
            dropped keys.
        keys: M, of which those that a mask hides and those that were dropped have no weight.
        cell: side in pixels of the squares that keys stand for; 1 for pixels.
        grid: (rows, columns) of keys that represent all of the image; None for those of windows.
        box: (top, left, bottom, right) of the pixels that the query could look at; the last two exclusive.
    """

    layer: int
    pixel: Pixel
    weights: Floats
    lost: Floats
    keys: int
    cell: int
    grid: tuple[int, int] | None
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class LayerAttention:
    """One layer, that is, one module that attends.

    Attributes:
        number: from 0, in the network's order.
        name: of the module.
        chain: from 1: layers of one chain have windows that hold the same pixels.
        heads: n; those of all its attentions, one after the other.
        keys: M.
        cell: side in pixels of the squares that keys stand for; 1 for pixels.
        grid: (rows, columns) of keys that represent all of the image; None for those of windows.
        means: of each of its attentions; None where these were not asked for.
        representatives: where keys stand for squares; None likewise.
    """

    number: int
    name: str
    chain: int
    heads: int
    keys: int
    cell: int
    grid: tuple[int, int] | None
    means: tuple[Means, ...] | None
    representatives: Representatives | None

    def per_head(self, name: str) -> NDArray[np.float64]:
        """[n]: "distance", "entropy" or "lost" of :class:`Means`, the heads of all its attentions."""
        assert self.means is not None
        return np.concatenate([getattr(means, name) for means in self.means]).astype(np.float64)

    def mean(self, name: str) -> float:
        """Its mean over the heads."""
        return float(self.per_head(name).mean())

    @property
    def uniform(self) -> float:
        """The mean attention distance where all keys count the same."""
        assert self.means is not None
        return float(np.mean([means.uniform for means in self.means]))


@dataclass(frozen=True)
class LookedAt:
    """The attention of one network over one image.

    Attributes:
        size: (h, w) of the image.
        layers: those that were asked for.
        rows: for each layer and pixel, layer by layer.
        similarity: of the layers; None where it was not asked for.
    """

    size: tuple[int, int]
    layers: tuple[LayerAttention, ...]
    rows: tuple[Row, ...]
    similarity: Similarity | None

    def row(self, layer: int, pixel: Pixel) -> Row:
        """Of one layer and pixel."""
        return next(row for row in self.rows if (row.layer, row.pixel) == (layer, pixel))


def look(
    network: nn.Module,
    x: Tensor,
    pixels: Sequence[Pixel] = (),
    layers: Collection[int] | None = None,
    *,
    chains: Collection[int] | None = None,
    statistics: bool = True,
    compare: bool = False,
    run: Callable[[nn.Module, Tensor], Tensor] = forward,
    progress: Callable[[], None] = lambda: None,
) -> LookedAt:
    """Run a network, and see where pixels look. The network is not changed, nor is its output.

    Memory is bounded but for the rows, n * h * w numbers for each layer and pixel. ``compare`` holds what all layers
    were given, queries, keys and lists, until the end.

    Args:
        network: with attention modules that say where their tokens lie.
        x: [1, c, h, w].
        pixels: (row, column) of pixels of the image.
        layers: numbers of layers; None for all.
        chains: numbers of chains, of which alone layers are looked at; None for all.
        statistics: look at all rows for :class:`Means` and :class:`Representatives`.
        compare: compare the layers' maps.
        run: the network and the image -> the output, which is not looked at.
        progress: called for each layer of the network when it begins.

    Raises:
        InputError: no such layer, chain or pixel, or the network has no such attention.
        ValueError: a module's attention is not what it says, or there are several images.
    """
    if x.ndim != 4 or x.shape[0] != 1:
        raise ValueError(f"look: expected one image [1, c, h, w], got {list(x.shape)}")
    names = list(attention_modules(network))
    size = (x.shape[2], x.shape[3])
    _check(network, names, size, pixels, layers)
    wanted = range(len(names)) if layers is None else sorted(set(layers))
    axes = (image_axis(network, size[0], x.device), image_axis(network, size[1], x.device))
    watch = _Watch(wanted, axes, size, pixels, chains, statistics=statistics, compare=compare)

    def see(seen: SeenAttention) -> None:
        if seen.part == seen.first == 0:
            progress()
        watch.see(seen)

    with torch.no_grad(), attention_seen_by(network, see):
        run(network, x)
    if chains is not None and (unknown := set(chains) - set(range(1, len(watch.chains) + 1))):
        raise InputError(
            f"there is no chain {min(unknown)}; the layers of this network are {len(watch.chains)} chain(s), from 1"
        )
    found = tuple(watch.layer(number, names[number]) for number in watch.sums)
    rows = tuple(watch.row(number, pixel) for number in watch.sums for pixel in dict.fromkeys(pixels))
    between = similarity(list(watch.seen), list(watch.seen.values())) if compare else None
    return LookedAt(size, found, rows, between)


def _check(
    network: nn.Module, names: Sequence[str], size: Pixel, pixels: Sequence[Pixel], layers: Collection[int] | None
) -> None:
    kind = type(network).__name__
    if not names:
        raise InputError(
            f"{kind} has no attention between pixels (no module of it has attention_places, docs/modules.md), so there "
            "are no rows to look at; `analyse.py maps` shows what else it computes inside"
        )
    if layers is not None and (unknown := [number for number in layers if not 0 <= number < len(names)]):
        raise InputError(f"{kind} has no attention layer {unknown[0]}; expected numbers from 0 to {len(names) - 1}")
    for row, column in pixels:
        if not (0 <= row < size[0] and 0 <= column < size[1]):
            raise InputError(
                f"pixel {row},{column} (row, column) is not in the image, which has {size[0]} rows and {size[1]} "
                "columns of low-resolution pixels"
            )


@dataclass(frozen=True)
class _PartOfRow:
    """A :class:`Row` of one of a layer's attentions."""

    weights: Tensor
    lost: Tensor
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class _About:
    """What is kept of one of a layer's attentions; not the call, whose tensors are large."""

    chain: int
    heads: int
    keys: int
    cell: int
    grid: tuple[int, int] | None


class _Watch:
    """What is seen while the network runs."""

    def __init__(
        self,
        wanted: Collection[int],
        axes: tuple[Tensor, Tensor],
        size: Pixel,
        pixels: Sequence[Pixel],
        chosen: Collection[int] | None,
        *,
        statistics: bool,
        compare: bool,
    ) -> None:
        self.wanted, self.axes, self.size, self.pixels, self.chosen = wanted, axes, size, pixels, chosen
        self.statistics, self.compare = statistics, compare
        self.step = axes[0].shape[1]  # pixels of the image that a place of the maps shows, along an axis
        self.chains: list[AttentionPlaces] = []
        self.sums: dict[int, dict[int, Sums]] = {}
        self.about: dict[int, dict[int, _About]] = {}
        self.rows: dict[tuple[int, Pixel], dict[int, _PartOfRow]] = {}
        self.seen: dict[int, list[SeenAttention]] = {}

    def see(self, seen: SeenAttention) -> None:
        """A call of an operator."""
        chain = self._chain(seen)
        if seen.module not in self.wanted or (self.chosen is not None and chain not in self.chosen):
            return
        places, call = seen.places, seen.call
        about = _About(chain, call.heads, call.keys, places.cell * self.step, places.grid)
        self.about.setdefault(seen.module, {})[seen.part] = about
        sums = self.sums.setdefault(seen.module, {}).setdefault(seen.part, Sums(places, call.heads, self.step))
        if self.statistics:
            sums.add(seen)
        if self.compare:
            self.seen.setdefault(seen.module, []).append(seen)
        for pixel in self.pixels:
            window, query = places.find(*self._place(pixel))
            if 0 <= window - seen.first < call.windows:
                self.rows.setdefault((seen.module, pixel), {})[seen.part] = self._row(seen, window, query)

    def _chain(self, seen: SeenAttention) -> int:
        """That of the layer; the first of its attentions decides."""
        if seen.part:
            return self.about[seen.module][0].chain if seen.module in self.about else 0
        for number, places in enumerate(self.chains, 1):
            if places.alike(seen.places):
                return number
        self.chains.append(seen.places)
        return len(self.chains)

    def _place(self, pixel: Pixel) -> Pixel:
        """The row and column of the maps that show a pixel; the first ones, since copies lie behind what they copy."""
        row, column = (
            int(torch.nonzero(axis == place)[0, 0]) for axis, place in zip(self.axes, pixel, strict=True)
        )  # fmt: skip
        return row, column

    def _row(self, seen: SeenAttention, window: int, query: int) -> _PartOfRow:
        places, number = seen.places, slice(window - seen.first, window - seen.first + 1)
        if places.size != (len(self.axes[0]), len(self.axes[1])):
            raise ValueError(
                f"a map inside the network has {places.size[0]} x {places.size[1]} places, expected "
                f"{len(self.axes[0])} x {len(self.axes[1])} for an image of {self.size[0]} x {self.size[1]}; a network "
                "that pads its input says how by padded_axis (archs.contract.PaddingNetwork)"
            )
        weights = seen.call.weights(number, slice(query, query + 1))[0, :, 0]  # [n, M]
        visible = seen.call.visible(number, slice(query, query + 1))
        keys = places.keys[window]
        lost = weights[:, keys == NOWHERE].sum(-1)
        inside = keys != NOWHERE
        at = places.covered(keys[inside])  # [M', cell * cell]
        # Each [M', cell * cell, f].
        rows, columns = self.axes[0][at // places.size[1]], self.axes[1][at % places.size[1]]
        image = (rows[..., None] * self.size[1] + columns[..., None, :]).flatten(1)  # [M', cell * cell * f * f]
        share = weights[:, inside, None].expand(-1, -1, image.shape[1]) / image.shape[1]
        # On the CPU: elsewhere the order in which copies are added is not fixed.
        dense = torch.zeros(len(weights), self.size[0] * self.size[1], dtype=weights.dtype)
        dense.index_add_(1, image.flatten().cpu(), share.flatten(1).cpu())
        seeable = torch.ones_like(inside) if visible is None else visible[0, 0]
        rows, columns = rows[seeable[inside]], columns[seeable[inside]]
        box = (int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
        return _PartOfRow(dense.unflatten(-1, self.size), lost.cpu(), box)

    def layer(self, number: int, name: str) -> LayerAttention:
        """What was found of a layer."""
        about, sums = self.about[number], self.sums[number]
        first = about[0]
        return LayerAttention(
            number=number,
            name=name,
            chain=first.chain,
            heads=sum(part.heads for part in about.values()),
            keys=first.keys,
            cell=first.cell,
            grid=first.grid,
            means=tuple(part.means() for part in sums.values()) if self.statistics else None,
            representatives=sums[0].representatives() if self.statistics else None,
        )

    def row(self, number: int, pixel: Pixel) -> Row:
        """What was found of a layer and a pixel: the heads of all its attentions."""
        found = self.rows[number, pixel].values()
        about = self.about[number][0]
        boxes = [part.box for part in found]
        box = (
            min(box[0] for box in boxes), min(box[1] for box in boxes),
            max(box[2] for box in boxes), max(box[3] for box in boxes),
        )  # fmt: skip
        weights, lost = (torch.cat([getattr(part, name) for part in found]).numpy() for name in ("weights", "lost"))
        return Row(number, pixel, weights, lost, about.keys, about.cell, about.grid, box)
