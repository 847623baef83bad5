"""Measure what is claimed to be fast: ``python scripts/benchmark.py [GROUP ...] [--quick] [--json F] [--markdown F]``.

Each row does the same work in two ways, in turns, within this run; the ratio is what counts. Groups: ops, networks,
train, data, metrics, startup; ``all`` (the default) is all of these. Two more are measured when they are named, with
--page for a page of docs/: runtimes (exported networks in other runtimes, deploying.md) and growth (time and memory
over pixels and batch, performance.md). Two more reports: ``kernels`` (what nvcc makes of
the CUDA sources) and ``profile`` (where the time of the networks goes).

Without ``--all`` the rows are those that suit a CPU; ``--quick`` takes small sizes and few repeats.
``--only PATTERN`` selects rows of any size by their names, ``--list`` shows these. ``--compare OLD.json`` shows how the
ratios have moved since an earlier run.

A row that would take too long or too much memory, or that the device cannot do, stays in the table and says so. One
that fails does not stop the others; the exit code is 1 then. Files are written anew with every row: after Ctrl-C they
hold all that was measured, and ``--resume`` goes on from there.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
import contextlib
import functools
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch

from scripts.benchmarks import (
    adversarial,
    data,
    growth,
    half,
    kernels,
    networks,
    operators,
    pixels,
    profiling,
    published,
    runtimes,
    startup,
    training,
    windows,
)
from scripts.benchmarks.limits import Limits
from scripts.benchmarks.measure import Comparison, Effort, Row, Side, Work, device_of, measure, prepared, without_ours
from scripts.benchmarks.memory import SERVE, MemoryMeter, serve
from scripts.benchmarks.record import Record, earlier_rows
from scripts.benchmarks.report import GPU, compare, earlier_ratios, markdown
from utils import devices
from utils.command import run_command
from utils.errors import InputError
from utils.marked import replace_marked
from utils.progress import Progress, console_line
from utils.trust import private_cache

GROUPS = ("ops", "networks", "train", "data", "metrics", "startup")
BY_NAME = ("runtimes", "growth")  # groups that are measured when they are named: they take minutes a network
REPORTS = ("kernels", "profile")
_MODULES = (
    operators, networks, windows, half, training, adversarial, published, data, pixels, startup, runtimes, growth,
)  # fmt: skip
_COMPILED = "TORCHINDUCTOR_CACHE_DIR"
_LONGEST_NOTE = 150  # characters of an error's message in the table


@functools.cache
def comparisons() -> dict[str, Comparison]:
    """All of them, by key."""
    return {found.key: found for module in _MODULES for found in module.comparisons()}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description="Measure ratios of speed and memory.")
    known = ", ".join((*GROUPS, *BY_NAME, *REPORTS))
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
    parser.add_argument("--device", default="cpu", metavar="NAME",
                        help=f"of ops, networks, train and profile: {devices.CHOICES} (default: cpu)")  # fmt: skip
    parser.add_argument("--size", metavar="WxH", help="of the images of profile on the CPU; default 64x64, quick 32x32")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page, with hardware and versions")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="put the table of runtimes or growth into its place in a page"
    )
    parser.add_argument("--resume", action="store_true",
                        help="leave out what the --json file holds already, from the same code")  # fmt: skip
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
    unknown = [group for group in groups if group not in known and group not in (*GROUPS, *BY_NAME, "all")]
    if unknown:
        names = ", ".join((*GROUPS, "all", *BY_NAME, *REPORTS))
        raise InputError(f'unknown group "{unknown[0]}"; expected {names}, or the name of a row (--list shows them)')
    found = [row for row in known.values() if _asked(row, groups, typed)]
    if not found:
        raise InputError(f"no row fits{f' --only {typed.only}' if typed.only else ''}; --list shows the names")
    return found


def _asked(row: Comparison, groups: Sequence[str], typed: argparse.Namespace) -> bool:
    """Whether a row is in the groups, fits the pattern, and has the size that is wanted."""
    if row.key in groups:
        return True
    if row.group not in groups and "all" not in groups and groups:
        return False
    if row.group in BY_NAME and row.group not in groups and not typed.only:
        return False
    if typed.only and not fnmatchcase(row.key, typed.only):
        return False
    if typed.quick:
        return row.quick
    return bool(typed.all or typed.only or not row.large)


def check(typed: argparse.Namespace) -> None:
    """Refuse what cannot be used before anything is measured; rows name the type of the device, which is in use."""
    device = devices.choose(typed.device)
    devices.use(device)
    typed.device = device.type
    if any(value is not None and value < 1 for value in (typed.repeats, typed.threads)):
        raise InputError("--repeats, --threads: expected numbers of at least 1")
    if not typed.max_seconds > 0:
        raise InputError(f"--max-seconds: expected a positive number, got {typed.max_seconds:g}")
    if typed.resume and typed.json is None:
        raise InputError("--resume goes on with the file of --json; name it")
    if typed.page is not None and len({*BY_NAME} & {*typed.groups}) != 1:
        raise InputError("--page is of the group runtimes, or of growth")
    if "profile" in typed.groups and typed.device not in profiling.DEVICES:
        raise InputError(f"profile is of {' and '.join(profiling.DEVICES)}, not of {typed.device}; leave it out")
    if typed.size and ("profile" not in typed.groups or typed.device != "cpu"):
        raise InputError("--size is of the group profile on the CPU")
    profiled_size(typed)


def effort_of(typed: argparse.Namespace) -> Effort:
    """How much is spent on a row."""
    repeats, seconds = (2, 0.0) if typed.quick else (7, 3.0)
    if typed.repeats:
        repeats, seconds = typed.repeats, 0.0
    return Effort(repeats, seconds, typed.max_seconds, typed.device)


def profiled_size(typed: argparse.Namespace) -> tuple[int, int]:
    """Height and width of the images of ``profile``.

    Raises:
        InputError: ``--size`` is not written like 64x64.
    """
    text = typed.size or ("32x32" if typed.quick else "64x64")
    width, _, height = text.partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit() and int(width) * int(height)):
        raise InputError(f'--size: expected width and height such as 320x180, got "{text}"')
    return int(height), int(width)


def run(todo: Sequence[Comparison], effort: Effort, limits: Limits, keep: Callable[[Row], None]) -> None:
    """Measure rows one after another, and hand each over as soon as it is there."""
    with (
        _common_folders(),
        MemoryMeter(limits, ("--threads", str(torch.get_num_threads()))) as meter,
        Progress(len(todo), "benchmark", unit="rows", plain=print) as bar,
    ):
        for comparison in todo:
            keep(_row(comparison, effort, meter))
            bar.advance(note=comparison.key)


def _row(comparison: Comparison, effort: Effort, meter: MemoryMeter) -> Row:
    """The row of a comparison, whatever happens in it."""
    try:
        return measure(comparison, effort, meter)
    except Exception as error:  # noqa: BLE001  printed with its traceback; the other rows are worth measuring
        console_line(f"{comparison.key}:\n{traceback.format_exc()}", sys.stderr)
        first = next(iter(str(error).splitlines()), "")
        note = f"failed: {type(error).__name__}: {first}"[:_LONGEST_NOTE]
        return without_ours(comparison, device_of(comparison, effort), note, failed=True)


@contextlib.contextmanager
def _common_folders() -> Iterator[None]:
    """Folders of this process and of the one that measures memory: made images, and what torch has compiled."""
    with tempfile.TemporaryDirectory() as folder:
        added = {data.SHARED: folder}
        with contextlib.suppress(InputError):  # kept between runs; torch's own follows the folder for temporary files
            added[_COMPILED] = str(private_cache("torchinductor"))
        before = {name: os.environ[name] for name in added if name in os.environ}
        os.environ.update({**added, **before})
        try:
            yield
        finally:
            for name in added.keys() - before.keys():
                del os.environ[name]


def sections(typed: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The reports that are no rows, and why some could not be made."""
    makers: dict[str, Callable[[], str]] = {
        "kernels": lambda: kernels.section(kernels.compile_all()),
        "profile": profiling.cuda_section if typed.device != "cpu" else lambda: _profile(typed),
    }
    found, failures = [], []
    for name, make in makers.items():
        if name not in typed.groups:
            continue
        try:
            found.append(make())
        except InputError as error:
            failures.append(str(error))
    return found, failures


def _profile(typed: argparse.Namespace) -> str:
    size = profiled_size(typed)
    return profiling.cpu_section(profiling.cpu_profiles(size, 0.0 if typed.quick else 2.0), size)


def write_page(typed: argparse.Namespace, record: Record) -> None:
    """Put the table of a group, and its picture, where a page has them."""
    group = growth if "growth" in typed.groups else runtimes
    replace_marked(typed.page, group.MARKS, group.section(record.rows, record.command, record.machine))
    if group is growth:
        growth.picture(record.rows, typed.page.parent / growth.PICTURE)


def find(key: str, side: str, pilot: bool) -> tuple[Callable[[], Work], tuple[str, ...] | None]:
    """What prepares the work of a side, and what is loaded first, for the process that measures memory."""
    comparison = comparisons()[key]
    chosen: Side = getattr(comparison, side)
    return prepared(comparison, side, "cpu", pilot=pilot), chosen.loaded


def main(argv: Sequence[str]) -> int:
    """Measure, print, write; 1 where something failed."""
    typed = parse(argv)
    check(typed)
    if typed.threads:
        torch.set_num_threads(typed.threads)
    if typed.serve_memory:
        serve(find)
        return 0
    todo = chosen(typed)
    if typed.list:
        print("\n".join(row.key for row in todo))
        return 0
    ratios = earlier_ratios(typed.compare) if typed.compare else None  # now: the file may be that of --json
    known = earlier_rows(typed.json) if typed.resume else []
    done = {(row.key, row.work, row.device) for row in known}
    effort = effort_of(typed)
    todo = [row for row in todo if (row.key, row.work, device_of(row, effort)) not in done]
    limits = Limits(typed.quick)
    record = Record(" ".join(argv), limits, typed.json, typed.markdown, len(todo), known)
    record.write()  # fails now where the file cannot be written
    try:
        if todo:
            run(todo, effort, limits, record.add)
    finally:  # Ctrl-C too
        if record.rows:
            print(markdown(record.rows))
    found, failures = sections(typed)
    print("\n".join(found))
    record.write([*found, GPU] if typed.device == "cpu" else found)
    if typed.page is not None:
        write_page(typed, record)
    if ratios is not None:
        print(compare(record.rows, ratios))
    failures += [f"{row.key}: {row.ours_note}" for row in record.rows if row.failed]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
