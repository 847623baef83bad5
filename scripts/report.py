"""Make one page that shows runs: ``python scripts/report.py experiments/NAME results/NAME -o report``.

The page is one HTML file that opens without a network: options and what they differ in, curves, scores of images,
pictures side by side, results of ``scripts/analyse.py`` that lie in these folders or are named, and how to repeat it
all. What is missing or damaged is said on the page. A page that was made here is replaced by a newer one; other files
are only with ``--overwrite``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
import shlex
from collections.abc import Sequence

from analysis.report.build import Wish, build_report, check_page, full_pictures, page_of
from analysis.report.page import write_page
from utils.command import run_command
from utils.errors import InputError

_PROGRAM = "report.py"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Make one page that shows training runs and tests.")
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER",
        help="experiments/NAME, results/NAME, or what scripts/analyse.py has written; the first run names the page",
    )  # fmt: skip
    parser.add_argument(
        "--compare", nargs="+", type=Path, default=[], metavar="FOLDER",
        help="other runs, whose curves, scores and pictures are shown beside, and what their options differ in",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report"),
        help="folder, for report/index.html, or a file that ends in .html (default: report)",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=int, default=200,
        help="show the pictures of so many images, those of least and of largest gain (default: 200)",
    )  # fmt: skip
    parser.add_argument(
        "--full", action="store_true", help="write full pictures into a folder beside the page, which links to them"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is no report that was made here")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Make the page that the command line asks for."""
    typed = parse(argv)
    if typed.images < 0:
        raise InputError(f"--images {typed.images}: expected 0 or more")
    page = page_of(typed.output)
    check_page(page, full=typed.full, overwrite=typed.overwrite)
    wish = Wish(
        folders=(*typed.folders, *typed.compare),
        command=f"python scripts/{_PROGRAM} {shlex.join(argv)}",
        images=typed.images,
        full=full_pictures(page) if typed.full else None,
    )
    report = build_report(wish, shown=True)
    write_page(report, page)
    for run in report.runs:
        for note in run.notes:
            print(f"{run.name}: {note}")
    print(f"wrote {page} ({page.stat().st_size / 10**6:,.1f} MB)")


if __name__ == "__main__":
    sys.exit(run_command(main))
