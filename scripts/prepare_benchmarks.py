"""Arrange the benchmarks for the option files of this project.

    python scripts/prepare_benchmarks.py -i DOWNLOADS -o datasets/benchmark

finds Set5, Set14, B100, Urban100 and Manga109 in folders and archives of the usual layouts (docs/data.md lists them),
and writes SET/xS/HR, SET/xS/LR and SET/HR. Sources are never changed. Run again, it goes on where it
stopped.

Exit codes: 0 everything is there, 2 something is missing or wrong (and reported), 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
from collections.abc import Sequence

from data.prepare.benchmarks import Outcome, arrange_benchmarks
from data.prepare.layouts import SETS
from utils.command import run_command
from utils.files import check_folder
from utils.log import configure_logging

_SHOWN = 10  # problems of a set and factor on the console


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="prepare_benchmarks.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-i", "--input", type=Path, nargs="+", required=True, metavar="PATH", help="folders and archives (zip, tar)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("datasets/benchmark"), metavar="DIR",
        help="folder of the tree (default: datasets/benchmark)",
    )  # fmt: skip
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS), metavar="SET", help="which sets")
    parser.add_argument("--scale", type=int, nargs="+", choices=range(2, 9), default=(2, 3, 4), help="which factors")
    parser.add_argument(
        "--make_lr", action="store_true", help="compute low-resolution images that the sources do not hold"
    )
    return parser.parse_args(argv)


def summary(outcome: Outcome) -> str:
    """The lines about one set and factor."""
    kind = "whole images" if outcome.scale is None else f"x{outcome.scale}"
    made = f", {outcome.made} low-resolution files computed" if outcome.made else ""
    lines = [f"{outcome.name} {kind}: {outcome.images} of {SETS[outcome.name]} images{made}"]
    lines += [f"  {problem}" for problem in outcome.problems[:_SHOWN]]
    if len(outcome.problems) > _SHOWN:
        lines.append(f"  ... and {len(outcome.problems) - _SHOWN} more")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Arrange and report; 2 if anything is missing or wrong."""
    typed = parse(argv)
    check_folder(typed.output)
    configure_logging()
    outcomes = arrange_benchmarks(typed.input, typed.output, typed.sets, typed.scale, make_lr=typed.make_lr)
    for outcome in outcomes:
        print(summary(outcome))
    absent = [name for name in typed.sets if name not in {outcome.name for outcome in outcomes}]
    if absent:
        print(f"not in these sources: {', '.join(absent)}")
    problems = sum(len(outcome.problems) for outcome in outcomes)
    print(f"{typed.output}: {problems} problems" if problems else f"{typed.output}: complete")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
