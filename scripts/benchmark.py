"""Measure what is claimed to be fast: ``python scripts/benchmark.py [GROUP ...] [--quick] [--json F] [--markdown F]``.

Each row does the same work in two ways, in turns, within this run; the ratio is what counts. Groups: networks, train,
ops, data, metrics. ``--compare OLD.json`` shows how the ratios have moved since an earlier run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

import torch

from scripts.benchmarks import data, networks, operators, pixels, windows
from scripts.benchmarks.measure import Comparison, Row, markdown, measure, own_peak
from utils.command import run_command
from utils.env import hardware, versions
from utils.errors import InputError
from utils.files import write_json, write_text
from utils.progress import Progress

GROUPS = ("networks", "train", "ops", "data", "metrics")


def comparisons() -> dict[str, Comparison]:
    """All of them, by key."""
    groups = (networks, windows, operators, data, pixels)
    return {found.key: found for group in groups for found in group.comparisons()}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description="Measure ratios of speed and memory.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)}, or keys; default: all")
    parser.add_argument("--quick", action="store_true", help="few repeats: under two minutes on two cores")
    parser.add_argument("--repeats", type=int, metavar="N", help="each side so many times (default 7, quick 3)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of torch; default: all cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table, with hardware and versions")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="an earlier --json: show how ratios have moved")
    parser.add_argument("--memory-of", nargs=2, metavar=("KEY", "SIDE"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def chosen(groups: Sequence[str]) -> list[Comparison]:
    """The comparisons of some groups, or with some keys."""
    known = comparisons()
    unknown = [group for group in groups if group not in known and group not in GROUPS]
    if unknown:
        raise InputError(f'unknown group "{unknown[0]}"; known: {", ".join((*GROUPS, *known))}')
    return [found for key, found in known.items() if not groups or key in groups or key.split("/")[0] in groups]


def report(rows: Sequence[Row], quick: bool) -> str:
    """The page ``docs/performance.md``."""
    load = f"{os.getloadavg()[1]:.1f} over the last five minutes, this program included"
    facts = "\n".join(f"- {name}: {value}" for name, value in {**hardware(), **versions(), "load": load}.items())
    kind = " --quick" if quick else ""
    return (
        "# Performance\n\n"
        f"Written by `python scripts/benchmark.py{kind} --markdown docs/performance.md`. Both columns of a row were\n"
        "measured in turns within one run; times are medians.\n\n"
        f"{facts}\n\n{markdown(rows)}\n"
    )


def compare(rows: Sequence[Row], old: Path) -> str:
    """Ratio then and now, for rows that both runs have."""
    earlier = {row["key"]: row["baseline_ms"] / row["ours_ms"] for row in json.loads(old.read_text())["rows"]}
    lines = [
        f"{row.key}: {earlier[row.key]:.2f} -> {row.speed:.2f} ({row.speed / earlier[row.key] - 1:+.0%})"
        for row in rows
        if row.key in earlier
    ]
    return "\n".join(lines) or f"no row of {old} was measured"


def main(argv: Sequence[str]) -> None:
    """Measure, print, write."""
    typed = parse(argv)
    if typed.memory_of:
        key, side = typed.memory_of
        print(json.dumps(own_peak(getattr(comparisons()[key], side).prepare())))
        return
    if any(value is not None and value < 1 for value in (typed.repeats, typed.threads)):
        raise InputError("--repeats, --threads: expected numbers of at least 1")
    if typed.threads:
        torch.set_num_threads(typed.threads)
    repeats, seconds = (3, 0.0) if typed.quick else (7, 3.0)
    if typed.repeats:
        repeats, seconds = typed.repeats, 0.0
    todo = [found for found in chosen(typed.groups) if found.quick or not typed.quick]
    rows = []
    with Progress(len(todo), "benchmark", unit="rows", plain=print) as bar:
        for comparison in todo:
            rows.append(measure(comparison, repeats, seconds))
            bar.advance(note=comparison.key)
    print(markdown(rows))
    if typed.json:
        shown = [dataclasses.asdict(row) for row in rows]
        write_json(typed.json, {"hardware": hardware(), "versions": versions(), "rows": shown})
    if typed.markdown:
        write_text(typed.markdown, report(rows, typed.quick))
    if typed.compare:
        print(compare(rows, typed.compare))


if __name__ == "__main__":
    sys.exit(run_command(main))
