"""How time and memory of the networks grow with the image and with the batch.

Small variants of the five networks: what a network computes for a pixel does not depend on how many blocks it has.
Each row sets an image, or a batch, beside one of 64 x 64 pixels; exponents are fitted over all rows of a network.
"""

from __future__ import annotations

import functools
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from analysis.drawing import new_figure
from archs import build_network
from config.variants import configuration
from models import upscale
from scripts.benchmarks.measure import Comparison, Pilot, Row, Side, Work
from scripts.benchmarks.networks import U

MARKS = ("<!-- growth: begin -->", "<!-- growth: end -->")
PICTURE = Path("images/growth.png")  # beside the page
SIZES = ((32, 32), (64, 64), (128, 128), (192, 320), (352, 640), (720, 1280))
"""Height and width; multiples of the windows but for the last, which is that of an HD picture."""
BATCHES = (2, 4, 8)
LEAST = 128 * 128
"""Pixels from which on exponents are fitted: below, calls of many small operators take as long as the arithmetic."""
_FIRST = (64, 64)

VARIANTS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "plainusr": ("PlainUSR-U", U),
    "hat": ("HAT-S, 1 group of 2 blocks", {**configuration("hat_s", 4), "depths": (2,), "num_heads": (6,)}),
    "rgt": ("RGT-S, 1 group of 2 blocks", {**configuration("rgt_s", 4), "depth": (2,), "num_heads": (6,)}),
    "esc": ("ESC-light, 1 block", {**configuration("esc_light", 4), "n_blocks": 1}),
    "pft": (
        "PFT-light, 2 groups of 1 block",
        {**configuration("pft_light", 4), "depths": (1, 1), "num_topk": (256, 64)},
    ),
}


class Case(NamedTuple):
    """What is upscaled: so many images of such a size."""

    batch: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Of all images."""
        return self.batch * self.height * self.width

    def __str__(self) -> str:
        return f"{self.batch} x {self.width} x {self.height}"


FIRST = Case(1, *_FIRST)
CASES = {
    **{f"{width}x{height}": Case(1, height, width) for height, width in SIZES},
    **{f"batch{batch}": Case(batch, *_FIRST) for batch in BATCHES},
}


def comparisons() -> list[Comparison]:
    """Every network with every image and batch."""
    return [
        Comparison(
            f"growth/{name}_{called}",
            f"{label}, x4, float32",
            Side(str(FIRST), functools.partial(evaluation, name, FIRST), keeps_memory="evaluation"),
            Side(
                str(case), functools.partial(evaluation, name, case),
                Pilot(functools.partial(evaluation, name, FIRST), max(1.0, case.pixels / FIRST.pixels)),
                keeps_memory="evaluation",
            ),
            quick=case == FIRST,
        )
        for name, (label, _) in VARIANTS.items()
        for called, case in CASES.items()
    ]  # fmt: skip


def evaluation(name: str, case: Case) -> Work:
    """The evaluation of a batch by a small variant."""
    torch.manual_seed(0)
    network = build_network(VARIANTS[name][1]).eval()
    images = torch.rand(case.batch, 3, case.height, case.width)

    def work() -> object:
        with torch.inference_mode():
            return upscale(network, images)

    return work


class Curve(NamedTuple):
    """What was measured of a network.

    Attributes:
        pixels: of each case.
        values: milliseconds, or MiB.
    """

    pixels: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """Of ``value = c pixels^exponent``, fitted to the cases from ``LEAST`` on; NaN for fewer than two."""
        kept = [(x, y) for x, y in zip(self.pixels, self.values, strict=True) if x >= LEAST and y > 0]
        if len(kept) < 2:
            return math.nan
        return statistics.linear_regression([math.log(x) for x, _ in kept], [math.log(y) for _, y in kept]).slope


def curve_of(rows: Sequence[Row], name: str, measure: str, *, batches: bool) -> Curve:
    """What rows say of a network: over its images, or over batches of the first size.

    Args:
        rows: of this group.
        name: of VARIANTS.
        measure: "ours_ms" or "ours_mib".
        batches: over batches, of which the first is one image.
    """
    found = []
    for called, case in CASES.items():
        row = next((row for row in rows if row.key == f"growth/{name}_{called}"), None)
        value = None if row is None else getattr(row, measure)
        if value is not None and (case.batch > 1 or case == FIRST if batches else case.batch == 1):
            found.append((case.pixels, float(value)))
    found.sort()
    return Curve(tuple(x for x, _ in found), tuple(y for _, y in found))


def section(rows: Sequence[Row], command: str, machine: Mapping[str, Mapping[str, str]]) -> str:
    """The table of docs/performance.md.

    Args:
        rows: of the run.
        command: its arguments.
        machine: its hardware and versions.
    """
    said = "; ".join(f"{name} {value}" for name, value in {**machine["hardware"], **machine["versions"]}.items())
    lines = [
        *textwrap.wrap(f"`python scripts/benchmark.py {command}`: {said}.", 120, break_long_words=False),
        "",
        "| network | largest image | ms | MiB | time, pixels | memory, pixels | time, batch | memory, batch |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, (label, _) in VARIANTS.items():
        curves = [
            curve_of(rows, name, measure, batches=batches)
            for batches in (False, True)
            for measure in ("ours_ms", "ours_mib")
        ]
        shapes = {height * width: f"{width} x {height}" for height, width in SIZES}
        largest = shapes[int(curves[0].pixels[-1])] if curves[0].pixels else ""
        ends = [f"{curve.values[-1]:,.0f}" if curve.values else "" for curve in curves[:2]]
        exponents = ["" if math.isnan(curve.exponent) else f"{curve.exponent:.2f}" for curve in curves]
        lines.append(f"| {label} | {' | '.join([largest, *ends, *exponents])} |")
    return "\n".join([*lines, "", f"![Time and memory over pixels and batch]({PICTURE.as_posix()})"]) + "\n"


def picture(rows: Sequence[Row], file: Path) -> None:
    """Time and memory of each network over pixels, on logarithmic axes, beside a line of exponent 1.

    Raises:
        InputError: matplotlib is not installed.
    """
    figure = new_figure(10.0, 4.2)
    for place, (measure, label) in enumerate((("ours_ms", "time, ms"), ("ours_mib", "peak memory, MiB")), 1):
        axes = figure.add_subplot(1, 2, place)
        for number, (name, (called, _)) in enumerate(VARIANTS.items()):
            images, batches = (curve_of(rows, name, measure, batches=over) for over in (False, True))
            shown = called if math.isnan(images.exponent) else f"{called}: {images.exponent:.2f}"
            axes.plot(images.pixels, images.values, "o-", color=f"C{number}", label=shown, markersize=4, linewidth=1.4)
            axes.plot(batches.pixels[1:], batches.values[1:], "x", color=f"C{number}", markersize=6)
        first, last = (height * width for height, width in (SIZES[0], SIZES[-1]))
        lowest = axes.get_ylim()[0]
        axes.plot((first, last), (lowest, lowest * last / first), "--", color="0.6", linewidth=1, label="exponent 1")
        axes.set(xscale="log", yscale="log", xlabel="low-resolution pixels (x: of a batch of 64 x 64)", ylabel=label)
        axes.grid(which="major", color="0.9", linewidth=0.6)
        axes.legend(fontsize=8, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
