"""Colours, sheets of panels with captions, and charts.

Shapes: pictures uint8 [.., .., 3] in R G B; maps float [h, w].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.evaluation.pictures import below, beside, enlarged, titled
from utils.optional import require_packages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]
Anchors = Sequence[tuple[float, tuple[float, float, float]]]

REQUIREMENTS = "requirements-analysis.txt"
_COLOURS = 256

SEISMIC: Anchors = (
    (0.0, (0.0, 0.0, 0.3)), (0.25, (0.0, 0.0, 1.0)), (0.5, (1.0, 1.0, 1.0)), (0.75, (1.0, 0.0, 0.0)),
    (1.0, (0.5, 0.0, 0.0)),
)  # fmt: skip
"""Blue, white, red: attribution maps are drawn in its upper half."""

_OPENCV = {"magma": cv2.COLORMAP_MAGMA, "viridis": cv2.COLORMAP_VIRIDIS, "inferno": cv2.COLORMAP_INFERNO}


def colours(anchors: Anchors) -> Pixels:
    """A table of 256 colours [256, 3], linear between colours in [0, 1] at places in [0, 1]; bytes are truncated."""
    at = np.arange(_COLOURS) / (_COLOURS - 1)
    places = [place for place, _ in anchors]
    channels = [np.interp(at, places, [colour[channel] for _, colour in anchors]) for channel in range(3)]
    return (255 * np.stack(channels, -1)).astype(np.uint8)


def named_colours(name: str) -> Pixels:
    """The table [256, 3] of "magma", "viridis" or "inferno"."""
    table = cv2.applyColorMap(np.arange(_COLOURS, dtype=np.uint8)[:, None], _OPENCV[name])
    return np.ascontiguousarray(table[:, 0, ::-1], np.uint8)


def coloured(values: NDArray[Any], table: Pixels) -> Pixels:
    """Values [h, w], clipped to [0, 1], in the colours of a table [256, 3]: [h, w, 3]."""
    place = np.minimum((np.clip(values, 0.0, 1.0) * _COLOURS).astype(np.int64), _COLOURS - 1)
    chosen: Pixels = table[place]
    return chosen


def scaled_to_unit(values: NDArray[Any], low: float | None = None, high: float | None = None) -> NDArray[np.float64]:
    """Values with ``low`` at 0 and ``high`` at 1, by default their own range; a constant becomes 0."""
    least = float(values.min()) if low is None else low
    most = float(values.max()) if high is None else high
    return np.zeros(values.shape) if most <= least else (values.astype(np.float64) - least) / (most - least)


@dataclass(frozen=True)
class Panel:
    """A picture with what is written above it.

    Attributes:
        pixels: uint8 [h, w, 3].
        caption: ASCII, one line.
    """

    pixels: Pixels
    caption: str = ""


def sheet(rows: Sequence[Sequence[Panel]], least: int = 200) -> Pixels:
    """Panels in rows on white, each under its caption.

    Args:
        rows: of panels; panels of a row are aligned at the top.
        least: panels that have fewer columns are enlarged by a whole factor, each pixel to a square.

    Returns:
        uint8 [.., .., 3].
    """
    drawn = []
    for row in rows:
        panels = [titled(_at_least(panel.pixels, least), panel.caption) for panel in row]
        height = max(panel.shape[0] for panel in panels)
        drawn.append(beside([on_white(panel, height, panel.shape[1]) for panel in panels]))
    width = max(row.shape[1] for row in drawn)
    return below([on_white(row, row.shape[0], width) for row in drawn])


def on_white(pixels: Pixels, height: int, width: int) -> Pixels:
    """The picture in the upper left of a white one [height, width, 3]."""
    out = np.full((height, width, 3), 255, np.uint8)
    out[: pixels.shape[0], : pixels.shape[1]] = pixels
    return out


def _at_least(pixels: Pixels, columns: int) -> Pixels:
    factor = -(-columns // pixels.shape[1])
    return pixels if factor <= 1 else enlarged(pixels, factor * pixels.shape[0], factor * pixels.shape[1])


def check_charts(user: str) -> None:
    """Make sure that charts can be drawn, before the work.

    Raises:
        InputError: matplotlib is not installed.
    """
    require_packages(user, REQUIREMENTS, "matplotlib")


def new_figure(width: float = 7.0, height: float = 4.0) -> Figure:
    """An empty figure of this size in inches, with nothing of matplotlib's global state.

    Raises:
        InputError: matplotlib is not installed.
    """
    check_charts("a chart")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
