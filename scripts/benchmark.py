"""Measure what is claimed to be fast: ``python scripts/benchmark.py [GROUP ...] [--quick] [--json F] [--markdown F]``.

Each row does the same work in two ways, in turns, within this run; the ratio is what counts. Groups: ops, networks,
train, data, metrics, startup; ``all`` (the default) is all of these. Two more reports: ``kernels`` (what nvcc makes of
the CUDA sources) and ``profile`` (where the time of the networks goes).

Without ``--all`` the rows are those that suit a CPU; ``--quick`` takes small sizes and few repeats.
``--only PATTERN`` selects rows of any size by their names, ``--list`` shows these. ``--compare OLD.json`` shows how the
ratios have moved since an earlier run.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

import torch

from scripts.benchmarks import (
    data,
    kernels,
    networks,
    operators,
    pixels,
    profiling,
    published,
    startup,
    training,
    windows,
)
from scripts.benchmarks.limits import Limits
from scripts.benchmarks.measure import Comparison, Effort, LeftOut, Row, Work, measure, prepared
from scripts.benchmarks.memory import SERVE, MemoryMeter, serve
from scripts.benchmarks.report import GPU, as_json, compare, left_out, markdown, page
from utils.command import run_command
from utils.errors import InputError
from utils.files import write_json, write_text
from utils.progress import Progress

GROUPS = ("ops", "networks", "train", "data", "metrics", "startup")
REPORTS = ("kernels", "profile")
_MODULES = (operators, networks, windows, training, published, data, pixels, startup)


@functools.cache
def comparisons() -> dict[str, Comparison]:
    """All of them, by key."""
    return {found.key: found for module in _MODULES for found in module.comparisons()}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description="Measure ratios of speed and memory.")
    known = ", ".join((*GROUPS, *REPORTS))
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{known}, all, or keys of rows; default: all")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small sizes, few repeats: under two minutes on two cores")
    size.add_argument("--all", action="store_true", help="large rows too: published sizes, 1280 x 720 pixels; hours")
    parser.add_argument("--only", metavar="PATTERN", help='rows of any size whose names fit: "networks/hat_*bf16*"')
    parser.add_argument("--list", action="store_true", help="print the names of the rows, and measure nothing")
    parser.add_argument("--repeats", type=int, metavar="N", help="each side so many times (default 7, quick 2)")
    parser.add_argument("--max-seconds", "--max_seconds", type=float, default=60.0, metavar="S",
                        help="leave out a side whose call is estimated to take longer (default 60)")  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="threads of torch; default: all cores")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of ops, networks, train and profile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page, with hardware and versions")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="an earlier --json: show how ratios have moved")
    parser.add_argument(SERVE, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def chosen(typed: argparse.Namespace) -> list[Comparison]:
    """The comparisons that a command line asks for.

    Raises:
        InputError: a group or key is unknown, or nothing is left.
    """
    if not typed.only and typed.groups and set(typed.groups) <= set(REPORTS):
        return []
    known = comparisons()
    groups = [group for group in typed.groups if group not in REPORTS]
    unknown = [group for group in groups if group not in known and group not in (*GROUPS, "all")]
    if unknown:
        names = ", ".join((*GROUPS, "all", *REPORTS))
        raise InputError(f'unknown group "{unknown[0]}"; expected {names}, or the name of a row (--list shows them)')
    found = [row for row in known.values() if _asked(row, groups, typed)]
    if not found:
        raise InputError(f"no row fits{f' --only {typed.only}' if typed.only else ''}; --list shows the names")
    return found


def _asked(row: Comparison, groups: Sequence[str], typed: argparse.Namespace) -> bool:
    """Whether a row is in the groups, fits the pattern, and has the size that is wanted."""
    if row.key in groups:
        return True
    if groups and "all" not in groups and row.group not in groups:
        return False
    if typed.only and not fnmatchcase(row.key, typed.only):
        return False
    if typed.quick:
        return row.quick
    return bool(typed.all or typed.only or not row.large)


def check(typed: argparse.Namespace) -> None:
    """Refuse what cannot be used before anything is measured."""
    if any(value is not None and value < 1 for value in (typed.repeats, typed.threads)):
        raise InputError("--repeats, --threads: expected numbers of at least 1")
    if not typed.max_seconds > 0:
        raise InputError(f"--max-seconds: expected a positive number, got {typed.max_seconds:g}")
    if typed.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no CUDA device, or torch is built without CUDA")
    if typed.compare is not None:
        compare([], typed.compare)


def effort_of(typed: argparse.Namespace) -> Effort:
    """How much is spent on a row."""
    repeats, seconds = (2, 0.0) if typed.quick else (7, 3.0)
    if typed.repeats:
        repeats, seconds = typed.repeats, 0.0
    return Effort(repeats, seconds, typed.max_seconds, typed.device)


def run(todo: Sequence[Comparison], effort: Effort, limits: Limits) -> tuple[list[Row], list[LeftOut]]:
    """Measure rows one after another."""
    rows, omitted = [], []
    with (
        _common_data(),
        MemoryMeter(limits, ("--threads", str(torch.get_num_threads()))) as meter,
        Progress(len(todo), "benchmark", unit="rows", plain=print) as bar,
    ):
        for comparison in todo:
            found = measure(comparison, effort, meter)
            if isinstance(found, Row):
                rows.append(found)
            else:
                omitted.append(found)
            bar.advance(note=comparison.key)
    return rows, omitted


@contextlib.contextmanager
def _common_data() -> Iterator[None]:
    """A folder for images that this process and the one that measures memory both read."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[data.SHARED] = folder
        try:
            yield
        finally:
            del os.environ[data.SHARED]


def sections(typed: argparse.Namespace) -> list[str]:
    """The reports that are no rows."""
    found = []
    if "kernels" in typed.groups:
        found.append(kernels.section(kernels.compile_all()))
    if "profile" in typed.groups and typed.device == "cuda":
        found.append(profiling.cuda_section())
    elif "profile" in typed.groups:
        side, repeats = (32, 1) if typed.quick else (64, 3)
        found.append(profiling.cpu_section(profiling.cpu_profiles(side, repeats), side))
    return found


def find(key: str, side: str, pilot: bool) -> Callable[[], Work]:
    """What prepares the work of a side, for the process that measures memory."""
    return prepared(comparisons()[key], side, "cpu", pilot=pilot)


def main(argv: Sequence[str]) -> None:
    """Measure, print, write."""
    typed = parse(argv)
    check(typed)
    if typed.threads:
        torch.set_num_threads(typed.threads)
    if typed.serve_memory:
        serve(find)
        return
    todo = chosen(typed)
    if typed.list:
        print("\n".join(row.key for row in todo))
        return
    limits = Limits(typed.quick)
    rows, omitted = run(todo, effort_of(typed), limits) if todo else ([], [])
    table, gaps, found = markdown(rows) if rows else "", left_out(rows, omitted), sections(typed)
    print("\n".join(part for part in (table, gaps, *found) if part))
    if typed.json:
        write_json(typed.json, as_json(rows, omitted, limits.told()))
    if typed.markdown:
        more = [*found, GPU] if typed.device == "cpu" else found
        write_text(typed.markdown, page(" ".join(argv), table, gaps, limits.told(), more))
    if typed.compare:
        print(compare(rows, typed.compare))


if __name__ == "__main__":
    sys.exit(run_command(main))
