"""Draw the curves of one or several training runs: ``python scripts/plot.py experiments/NAME ... -o curves.png``.

Reads ``metrics.jsonl`` of each run; loss, learning rate and every metric of every validation set become a panel each.
Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

from utils.command import run_command
from utils.errors import InputError
from utils.files import atomic_write

Curve = list[tuple[int, float]]


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
    parser = argparse.ArgumentParser(prog="plot.py", description="Curves of training runs as a PNG picture.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or their metrics.jsonl files")
    parser.add_argument("-o", "--output", type=Path, default=Path("curves.png"), help="picture to write")
    parser.add_argument(
        "--smooth", type=int, default=1, help="moving average of the losses over this many records (default 1)"
    )
    arguments = parser.parse_args(list(argv))
    if arguments.smooth < 1:
        raise InputError(f"--smooth {arguments.smooth}: expected 1 or more")
    draw([read_curves(path, arguments.smooth) for path in arguments.runs], arguments.output)
    print(f"wrote {arguments.output}")


def read_curves(path: Path, smooth: int = 1) -> RunCurves:
    """The curves of a run from its ``metrics.jsonl``.

    Args:
        path: folder of the run, or the file.
        smooth: losses are moving averages over this many records.

    Raises:
        InputError: there is no such file, or nothing in it.
    """
    file = path / "metrics.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file}: there is no such file; name the folder of a training run")
    run = RunCurves(file.resolve().parent.name)
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the last line of a run that was killed while it wrote
            continue
        for title, value in _values(record):
            run.curves.setdefault(title, []).append((record["step"], value))
    if not run.curves:
        raise InputError(f"{file}: holds no records")
    for title, curve in run.curves.items():
        if title.startswith("l_"):
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
        found = [(name, value) for name, value in record.items() if name.startswith("l_")]
        found += [("lr", record["lr"][0]), ("grad_norm", record.get("grad_norm"))]
    return [(title, float(value)) for title, value in found if value is not None]


def draw(runs: Sequence[RunCurves], output: Path) -> None:
    """A panel for each title that any run has, with a line for each run; written to ``output`` as PNG.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputError("plot.py draws with matplotlib, which is not installed: pip install matplotlib") from error
    titles = list(dict.fromkeys(title for run in runs for title in run.curves))
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows), layout="constrained")
    for number, title in enumerate(titles, 1):
        axes = figure.add_subplot(rows, columns, number)
        for run in runs:
            if title in run.curves:
                steps, values = zip(*run.curves[title], strict=True)
                axes.plot(steps, values, label=run.name, marker="o" if len(steps) < 20 else None, markersize=3)
        axes.set_title(title)
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        if title.startswith("l_"):
            axes.set_yscale("log")
        if len(runs) > 1:
            axes.legend(fontsize="small")
    with atomic_write(output) as file:
        figure.savefig(file, format="png", dpi=120)


if __name__ == "__main__":
    sys.exit(run_command(main))
