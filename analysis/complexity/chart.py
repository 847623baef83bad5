"""Bubbles: latency against multiply-adds or PSNR, their diameter by memory as in ESC's figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.drawing import new_figure
from utils.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGEST = 60.0  # diameter of the largest bubble, in points
_UNKNOWN = 12.0
_WIDE = 30
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")  # Tol's bright colours


@dataclass(frozen=True)
class Bubble:
    """A network in a chart.

    Attributes:
        label: beside it.
        x: to the right.
        y: upwards.
        memory: by which its diameter grows, in any unit; None where it is unknown: a small ring.
        group: bubbles of one group have one colour.
    """

    label: str
    x: float
    y: float
    memory: float | None = None
    group: str = ""


def _wide(values: Sequence[float]) -> bool:
    """Whether values spread so far that the small ones would lie upon each other on a linear axis."""
    return min(values) > 0 and max(values) > _WIDE * min(values)


def bubble_chart(bubbles: Sequence[Bubble], x: str, y: str, note: str = "", memory_unit: str = "MiB") -> Figure:
    """Bubbles, each with its label.

    Args:
        bubbles: at least one.
        x: label of the axis to the right.
        y: label of the other one.
        note: below the chart: where figures are from.
        memory_unit: of the bubbles' memory.

    Raises:
        InputError: there is nothing to draw, or matplotlib is not installed.
    """
    if not bubbles:
        raise InputError("--chart: none of these networks has both figures, so that there is nothing to draw")
    figure = new_figure(8.5, 5.5)
    axes = figure.subplots()
    largest = max((bubble.memory for bubble in bubbles if bubble.memory is not None), default=None)
    groups = list(dict.fromkeys(bubble.group for bubble in bubbles))
    for bubble in bubbles:
        colour = _COLOURS[groups.index(bubble.group) % len(_COLOURS)]
        diameter = _UNKNOWN if bubble.memory is None or largest is None else _LARGEST * bubble.memory / largest
        axes.scatter(
            [bubble.x], [bubble.y], s=[diameter**2], alpha=0.45,
            facecolors="none" if bubble.memory is None else colour, edgecolors=colour, linewidths=1.5,
        )  # fmt: skip
        axes.scatter([bubble.x], [bubble.y], s=[9], color=colour)
        axes.annotate(
            bubble.label, (bubble.x, bubble.y), xytext=(0, diameter / 2 + 2), textcoords="offset points", ha="center",
            fontsize=8,
        )  # fmt: skip
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.margins(0.16, 0.2)
    axes.grid(alpha=0.25)
    if _wide([bubble.x for bubble in bubbles]):
        axes.set_xscale("log")
    if _wide([bubble.y for bubble in bubbles]):
        axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):  # room for a bubble at 0 is no range of values
        axis.set_major_formatter(lambda value, _: "" if value < 0 else f"{value:g}")
    legend = "" if largest is None else f"diameter: memory, the largest {largest:.0f} {memory_unit}"
    lines = [line for line in (legend, note) if line]
    if lines:
        axes.set_title("\n".join(lines), fontsize=8, loc="left")
    return figure
