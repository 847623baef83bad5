"""Charts of similarity, frequencies and alphas, with matplotlib.

Shapes: L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.drawing import new_figure
from analysis.maps import Alphas
from analysis.spectra import Curve, Depth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LABELS = 40
_MOST_NUMBERS = 10
_DARK = 0.6  # numbers are written in white below, or beyond in a diverging table


def matrix_chart(
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    titles: tuple[str, str],
    measure: str,
    signed: bool = False,
) -> Figure:
    """A matrix of similarities, from 0 to 1 in magma, the first layer at the lower left; undefined ones are grey.

    Args:
        values: [rows, columns]; below 0 they have the colour of 0.
        rows: names of the layers.
        columns: likewise.
        titles: what the rows belong to, and the columns.
        measure: beside the scale.
        signed: from -1 to 1 instead, from blue over white to red.
    """
    height, width = values.shape
    numbers = max(height, width) <= _MOST_NUMBERS
    cell = 0.55 if numbers else 0.22
    figure = new_figure(2.6 + max(2.5, min(9.0, cell * width)), 1.8 + max(2.5, min(9.0, cell * height)))
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.1, h_pad=0.1)  # inches: of square cells, labels would touch the border otherwise
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap=_table("RdBu_r" if signed else "magma"), vmin=-signed, vmax=1, origin="lower")
    negative = not signed and bool((values < 0).any())
    figure.colorbar(image, ax=axes, label=measure, extend="min" if negative else "neither", shrink=0.85)
    _label(axes, rows, columns)
    axes.set_ylabel(titles[0])
    axes.set_xlabel(titles[1])
    if numbers:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = abs(value) > _DARK if signed else value < _DARK
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=8,
                    color="white" if dark else "black",
                )  # fmt: skip
    return figure


def depth_chart(networks: Mapping[str, Depth]) -> Figure:
    """Log-amplitude curves of features, a panel for each network; colour is depth, first dark, last light."""
    figure = new_figure(4.6 * len(networks), 3.8)
    shared: Axes | None = None
    for number, (name, depth) in enumerate(networks.items(), 1):
        axes = figure.add_subplot(1, len(networks), number, sharey=shared)
        shared = shared or axes
        count = len(depth.curves)
        colours = _table("viridis")(np.linspace(0, 0.92, count))
        for curve, module, colour in zip(depth.curves, depth.names, colours, strict=True):
            axes.plot(curve.frequencies / np.pi, curve.relative, color=colour, label=module, linewidth=1.4)
        axes.set_title(name)
        axes.set_xlabel("frequency / π")
        axes.set_xlim(0, 1)
        axes.grid(alpha=0.3)
        if number == 1:
            axes.set_ylabel("Δ log amplitude")
        if count <= 8:
            axes.legend(fontsize="x-small")
        else:
            _depth_bar(figure, axes, depth.names)
    return figure


def error_chart(curves: Mapping[str, Curve]) -> Figure:
    """Log-amplitude of the error, one curve for each network; not relative: lower is better at that frequency."""
    figure = new_figure(6.0, 4.0)
    axes = figure.add_subplot()
    for number, (name, curve) in enumerate(curves.items()):
        axes.plot(
            curve.frequencies / np.pi, curve.amplitudes, label=name, color=f"C{number % 10}",
            linestyle="--" if name == "bicubic" else "-", linewidth=1.4,
        )  # fmt: skip
    axes.set_xlabel("frequency / π of the HR picture")
    axes.set_ylabel("log amplitude of SR - HR")
    axes.set_xlim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def alpha_chart(networks: Mapping[str, Sequence[Alphas]]) -> Figure:
    """Alphas of hybrid adaptive integration, a box over the channels for each block; colour says which attention."""
    most = max(len(blocks) for blocks in networks.values())
    figure = new_figure(max(5.0, min(14.0, 1.5 + 0.3 * most)), 3.4 * len(networks))
    colours = {"L-SA": "C0", "RG-SA": "C1"}
    for number, (name, blocks) in enumerate(networks.items(), 1):
        axes = figure.add_subplot(len(networks), 1, number)
        boxes: Any = axes.boxplot(
            [block.values for block in blocks], patch_artist=True, widths=0.65, medianprops={"color": "black"},
            flierprops={"markersize": 2},
        )  # fmt: skip
        for box, block in zip(boxes["boxes"], blocks, strict=True):
            box.set_facecolor(colours[block.attention])
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_title(name)
        axes.set_ylabel("alpha")
        labels = [block.name.removeprefix("layers.").removesuffix(".gamma") for block in blocks]
        axes.set_xticks(range(1, len(blocks) + 1), [label.replace(".blocks.", ".") for label in labels])
        axes.tick_params(axis="x", labelrotation=90 if len(blocks) > 8 else 0, labelsize=8)
        axes.set_xlabel("group.block")
        for attention, colour in colours.items():
            axes.fill_between([], [], color=colour, label=attention)
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _label(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Names of layers, or their numbers where they are too many."""
    if len(rows) <= _MOST_LABELS and len(columns) <= _MOST_LABELS:
        size = 8 if max(len(rows), len(columns)) <= 20 else 6
        axes.set_yticks(range(len(rows)), rows, fontsize=size)
        axes.set_xticks(range(len(columns)), columns, fontsize=size, rotation=90)


def _depth_bar(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    table = ListedColormap(_table("viridis")(np.linspace(0, 0.92, 256)))
    bar = figure.colorbar(ScalarMappable(Normalize(0, len(names) - 1), table), ax=axes)
    bar.set_ticks([0, len(names) - 1], labels=["first", "last"])
    bar.set_label(f"depth of {len(names)} modules")


def _table(name: str) -> Any:
    """A colour table of matplotlib, with grey for what is not defined."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad="lightgrey")
