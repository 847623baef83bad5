"""Pictures of attention: where one pixel looks, in red, and which representatives a network uses.

Shapes: n heads, h w sides of the image; m representatives; pictures uint8 [.., .., 3] in R G B.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from analysis.attention.look import Pixel, Row
from analysis.attention.similarity import Similarity
from analysis.attention.statistics import Representatives
from analysis.drawing import Panel, Pixels, coloured, named_colours, scaled_to_unit
from models.evaluation.pictures import enlarged

RED = (255, 0, 0)
SATURATED = 10.0
"""A weight of so many times 1/N, N keys of a window, is drawn opaque: 0.01 for windows of 32 x 32, as PFT's script."""

SATURATED_CELLS = 4.0
"""The same of keys that stand for squares, which are few: uniform attention is a quarter opaque."""

Box = tuple[int, int, int, int]  # top, left, bottom, right


def opacity(row: Row, head: int | None = None) -> NDArray[np.float64]:
    """How opaque each pixel of the image is drawn, [h, w] in [0, 1].

    Args:
        row: where a pixel looks.
        head: number of a head; None for the mean over the heads.
    """
    weights = row.weights.mean(0) if head is None else row.weights[head]
    saturated = SATURATED if row.grid is None else SATURATED_CELLS
    drawn: NDArray[np.float64] = np.minimum(weights * row.cell**2 * row.keys / saturated, 1.0)
    return drawn


def painted_red(background: Pixels, opaque: NDArray[np.float64]) -> Pixels:
    """Red over a picture [h, w, 3]; opacities in [0, 1] are truncated to 255 steps."""
    share = (255 * opaque).astype(np.int64)[..., None] / 255
    painted: Pixels = np.round((1 - share) * background + share * np.asarray(RED)).astype(np.uint8)
    return painted


def located(picture: Pixels, pixel: Pixel, boxes: Sequence[Box] = (), least: int = 200) -> Pixels:
    """A picture, enlarged to at least so many columns, with red outlines around 3 x 3 pixels and around parts.

    Args:
        picture: uint8 [h, w, 3].
        pixel: the middle of the 3 x 3.
        boxes: the parts.
        least: columns of the result.
    """
    factor = -(-least // picture.shape[1])
    drawn = enlarged(picture, factor * picture.shape[0], factor * picture.shape[1])
    row, column = pixel
    for top, left, bottom, right in ((row - 1, column - 1, row + 2, column + 2), *boxes):
        corners = (factor * left, factor * top), (factor * right - 1, factor * bottom - 1)
        drawn = np.asarray(cv2.rectangle(drawn.copy(), *corners, RED, 2 + factor // 16), np.uint8)
    return drawn


def box_of(rows: Sequence[Row]) -> Box:
    """All that a query could look at in any of some layers."""
    tops, lefts, bottoms, rights = zip(*(row.box for row in rows), strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)


def panels_of_rows(
    rows: Sequence[Row],
    lr: Pixels,
    captions: Sequence[str],
    *,
    head: int | None = None,
    over_image: bool = False,
    least: int = 200,
) -> list[Panel]:
    """One pixel, layer by layer: the part of the image that it can look at, then one panel for each layer.

    Args:
        rows: of one pixel.
        lr: the image, uint8 [h, w, 3].
        captions: of the part, and of each row.
        head: number of a head; None for the mean over the heads.
        over_image: red over the image instead of over white.
        least: columns of a panel.
    """
    top, left, bottom, right = box_of(rows)
    part = (slice(top, bottom), slice(left, right))
    row, column = rows[0].pixel
    panels = [Panel(located(lr[part], (row - top, column - left), least=least), captions[0])]
    for row_of, caption in zip(rows, captions[1:], strict=True):
        background = lr[part] if over_image else np.full_like(lr[part], 255)
        panels.append(Panel(painted_red(background, opacity(row_of, head)[part]), caption))
    return panels


def in_rows(panels: Sequence[Panel], columns: int) -> list[Sequence[Panel]]:
    """Panels in rows of so many."""
    return [panels[start : start + columns] for start in range(0, len(panels), columns)]


def panels_of_representatives(found: Representatives, lr: Pixels, caption: str) -> list[Panel]:
    """How much the representatives are used, and by which pixels.

    The mean row over the image (a quarter opaque: as much as all others), the entropy of each pixel's row on its own
    range, which the caption tells (bright: most alike), both means over the heads, and, where there are at most 64, one
    panel for each representative whose brightness is its weight at each pixel, all on one scale from 0.

    Args:
        found: of one layer.
        lr: the image, uint8 [h, w, 3].
        caption: of the layer.
    """
    mean = found.mean.mean(0)
    rows, columns = found.grid
    opaque = np.minimum(mean.reshape(rows, columns) * len(mean) / SATURATED_CELLS, 1.0)
    grid = np.zeros(lr.shape[:2])  # what is right of and below the squares is not represented
    grid[: rows * found.cell, : columns * found.cell] = opaque.repeat(found.cell, 0).repeat(found.cell, 1)
    entropy = found.entropy.mean(0)
    span = f"entropy / log m: {entropy.min():.2f} to {entropy.max():.2f}"
    panels = [
        Panel(painted_red(lr, grid), f"{caption}: mean row"),
        Panel(coloured(scaled_to_unit(entropy), named_colours("magma")), span),
    ]
    if found.weights is not None:
        drawn = scaled_to_unit(found.weights, low=0.0)
        panels += [
            Panel(coloured(drawn[number], named_colours("magma")), f"{number // columns},{number % columns}")
            for number in range(len(mean))
        ]
    return panels


def panels_of_similarity(found: Similarity, chain: Sequence[int], caption: str) -> list[Panel]:
    """Cosine (0 to 1) and Jensen-Shannon divergence (0 to log 2) of the layers of a chain, the first at the lower left.

    Args:
        found: of all layers.
        chain: numbers of layers that can be compared.
        caption: of the chain.
    """
    places = [found.layers.index(layer) for layer in chain]
    panels = []
    for name, values, most in (("cosine", found.cosine, 1.0), ("JS / log 2", found.jensen_shannon, np.log(2))):
        matrix = values[np.ix_(places, places)] / most
        pixels = coloured(np.nan_to_num(matrix), named_colours("magma"))
        pixels[np.isnan(matrix)] = 255  # another number of heads
        panels.append(Panel(np.ascontiguousarray(pixels[::-1]), f"{caption}: {name}"))
    return panels
