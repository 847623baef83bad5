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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.command import run_command
from utils.errors import InputError
from utils.files import atomic_write, check_writable
from utils.reading import is_regular
from utils.records import read_records
from utils.wording import first_few

Curve = list[tuple[int, float]]

FORMATS = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".eps")
"""Suffixes of pictures that can be written."""
_COLOURS = 10  # of matplotlib's cycle; further runs repeat them with other strokes
_STROKES = ("-", "--", ":", "-.")


@dataclass
class RunCurves:
    """What a run has logged.

    Attributes:
        name: of its folder.
        curves: title of a panel -> (iteration, value), ascending.
    """

    name: str
    curves: dict[str, Curve] = field(default_factory=dict)


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
    draw([read_curves(path, arguments.smooth) for path in arguments.runs], arguments.output)
    print(f"wrote {arguments.output}")


def read_curves(path: Path, smooth: int = 1) -> RunCurves:
    """The curves of a run from its ``metrics.jsonl``.

    Args:
        path: folder of the run, or the file.
        smooth: losses are moving averages over this many records.

    Raises:
        InputError: there is no such file, nothing in it, or no records of a training run.
    """
    file = path / "metrics.jsonl" if path.is_dir() else path
    if not is_regular(file):
        raise InputError(f"{file}: there is no such file; name the folder of a training run")
    run = RunCurves(file.resolve().parent.name)
    records = read_records(file)
    if records.dropped and not records.lines:
        raise InputError(f"{file}, line {records.dropped[0]}: no record of a training run; name metrics.jsonl of one")
    if records.dropped:
        lines = first_few([str(number) for number in records.dropped], 4)
        print(f"{file}: {len(records.dropped)} damaged lines are left out: line {lines}", file=sys.stderr)
    for _, record in records.lines:
        for title, value in _values(record):
            run.curves.setdefault(title, []).append((record["step"], value))
    if not run.curves:
        raise InputError(f"{file}: holds no records")
    for title, curve in run.curves.items():
        if title.startswith(("l_", "out_")):
            run.curves[title] = smoothed(curve, smooth)
    return run


def smoothed(curve: Curve, window: int) -> Curve:
    """Moving average: means of each value and those before it, ``window`` in all."""
    means = []
    for i, (step, _) in enumerate(curve):
        part = [value for _, value in curve[max(0, i + 1 - window) : i + 1]]
        means.append((step, sum(part) / len(part)))
    return means


def _values(record: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The figures of a record with the titles of their panels."""
    if record["kind"] == "val":
        found = [(f"{record['dataset']}: {metric}", value) for metric, value in record["scores"].items()]
    else:
        found = [(name, value) for name, value in record.items() if name.startswith(("l_", "out_"))]
        found += [(name, value[0]) for name, value in record.items() if name == "lr" or name.startswith("lr_")]
        found += [(name, value) for name, value in record.items() if name.startswith("grad_norm")]
    return [(title, float(value)) for title, value in found if value is not None]


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
                steps, values = zip(*run.curves[title], strict=True)
                axes.plot(
                    steps, values, label=label, color=f"C{place % _COLOURS}",
                    linestyle=_STROKES[place // _COLOURS % len(_STROKES)],
                    marker="o" if len(steps) < 20 else None, markersize=3,
                )  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        if title.startswith("l_") and all(v > 0 for run in runs for _, v in run.curves.get(title, ())):
            axes.set_yscale("log")
        if len(runs) > 1:
            axes.legend(fontsize="small")
    # Type 42: text in a PDF stays text, and publishers that refuse Type 3 fonts take it.
    with matplotlib.rc_context({"pdf.fonttype": 42, "ps.fonttype": 42}), atomic_write(output) as file:
        figure.savefig(file, format=output.suffix[1:].lower(), dpi=120)


if __name__ == "__main__":
    sys.exit(run_command(main))
