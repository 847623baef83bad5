"""Draw the curves of one or several training runs: ``python scripts/plot.py experiments/NAME ... -o curves.png``.

Reads ``metrics.jsonl`` of each run; loss, learning rate and every metric of every validation set become a panel each.
A run has one colour in all of them. The suffix of the output names its format: ``.pdf`` and ``.svg`` for papers,
``.png`` and others. Needs matplotlib.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np

from analysis.report.curves import SPEEDS, Points, RunCurves, read_curves
from utils.command import run_command
from utils.errors import InputError
from utils.files import atomic_write, check_writable
from utils.wording import first_few

FORMATS = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".eps")
"""Suffixes of pictures that can be written."""
_COLOURS = 10  # of matplotlib's cycle; further runs repeat them with other strokes
_STROKES = ("-", "--", ":", "-.")


def main(argv: Sequence[str]) -> None:
    """Read the runs and write the picture."""
    parser = argparse.ArgumentParser(prog="plot.py", description="Draw the curves of training runs.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or their metrics.jsonl files")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("curves.png"),
        help=f"picture to write (default: curves.png); one of {' '.join(FORMATS)}",
    )
    parser.add_argument(
        "--smooth", type=int, default=1, help="moving average of the losses over this many records (default 1)"
    )
    arguments = parser.parse_args(list(argv))
    if arguments.smooth < 1:
        raise InputError(f"--smooth {arguments.smooth}: expected 1 or more")
    if arguments.output.suffix.lower() not in FORMATS:
        raise InputError(f"{arguments.output}: name a file that ends in one of {', '.join(FORMATS)}")
    check_writable(arguments.output)
    draw([curves_of(path, arguments.smooth) for path in arguments.runs], arguments.output)
    print(f"wrote {arguments.output}")


def curves_of(path: Path, smooth: int) -> RunCurves:
    """The curves of a run that are drawn: all but those about the machine; losses are smoothed.

    Args:
        path: folder of the run, or its ``metrics.jsonl``.
        smooth: losses are moving averages over this many records.

    Raises:
        InputError: see :func:`analysis.report.curves.read_curves`.
    """
    run = read_curves(path)
    if run.dropped:
        lines = first_few(map(str, run.dropped), 4)
        print(f"{path}: {len(run.dropped)} damaged lines are left out: line {lines}", file=sys.stderr)
    machine = {title for title, *_ in SPEEDS.values()}
    known = {title: points.known for title, points in run.curves.items() if title not in machine}
    curves = {title: smoothed(own, smooth) if own.group == "loss" else own for title, own in known.items()}
    return dataclasses.replace(run, curves={title: own for title, own in curves.items() if len(own.steps)})


def smoothed(points: Points, window: int) -> Points:
    """Moving average: means of each value and those before it, ``window`` in all."""
    sums = np.cumsum(np.append(0.0, points.values))
    last = np.arange(1, len(sums))
    first = np.maximum(last - window, 0)
    return dataclasses.replace(points, values=(sums[last] - sums[first]) / (last - first))


def labels(runs: Sequence[RunCurves]) -> list[str]:
    """A name for each run that no other has: that of its folder, with a number where two folders have the same."""
    names = [run.name for run in runs]
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def draw(runs: Sequence[RunCurves], output: Path) -> None:
    """A panel for each title that any run has, with a line for each run, of one colour in all panels.

    Args:
        runs: what to draw.
        output: written in the format that its suffix names, one of FORMATS.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputError("plot.py draws with matplotlib, which is not installed: pip install matplotlib") from error
    titles = list(dict.fromkeys(title for run in runs for title in run.curves))
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows), layout="constrained")
    for number, title in enumerate(titles, 1):
        axes = figure.add_subplot(rows, columns, number)
        for place, (run, label) in enumerate(zip(runs, labels(runs), strict=True)):
            if title in run.curves:
                points = run.curves[title]
                axes.plot(
                    points.steps, points.values, label=label, color=f"C{place % _COLOURS}",
                    linestyle=_STROKES[place // _COLOURS % len(_STROKES)],
                    marker="o" if len(points.steps) < 20 else None, markersize=3,
                )  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        if title.startswith("l_") and all((run.curves[title].values > 0).all() for run in runs if title in run.curves):
            axes.set_yscale("log")
        if len(runs) > 1:
            axes.legend(fontsize="small")
    # Type 42: text in a PDF stays text, and publishers that refuse Type 3 fonts take it.
    with matplotlib.rc_context({"pdf.fonttype": 42, "ps.fonttype": 42}), atomic_write(output) as file:
        figure.savefig(file, format=output.suffix[1:].lower(), dpi=120)


if __name__ == "__main__":
    sys.exit(run_command(main))
