"""Rows as a Markdown table, as the page docs/performance.md, and compared with an earlier run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.benchmarks.measure import Row
from utils.errors import InputError

SLOWER = 0.9  # a ratio below this part of the earlier one is called slower; less is within what a busy machine does

_HEAD = """\
# Performance

Speed-up and memory of networks, operators, training and data loading against a baseline. Measure your own machine:

```bash
python scripts/benchmark.py --quick                             # under two minutes: small sizes, few repeats
python scripts/benchmark.py {}
```

This page was written by the second command. Both columns of a row were measured in turns within one run; times are
medians. "Speed-up" is the baseline's time divided by ours. "Share of the limit" is the least time that the machine's
bandwidth or arithmetic allows, as a part of ours: of copying a large buffer and of a large matrix product, measured in
this run with the same threads. Work that fits into the caches can exceed the first. "Memory" is the peak memory that a
call adds. Where a time is missing, the reason is in its place.
"""

GPU = """\
## What has to be run on a GPU

One command runs all of it, `make gpu` (`scripts/run_gpu.sh`), with the Python that is there and without a network, and
leaves with exit code 2 where there is no device. Its stages have a time limit each; one that runs out of time is
stopped, what it has written stays in `--output` (`results/gpu`), and the next one runs:

1. every library of kernels is compiled and loaded (90 s);
2. the tests of the kernels and of everything that moves to a device, `pytest -m gpu`, in several processes (150 s);
3. the figures of `docs/performance_gpu.md`, in order of worth (150 s; `--resume` goes on with those that are missing);
4. `compute-sanitizer` with `memcheck` and with `racecheck` over one small case per kernel (90 s);
5. the kernels that take the time of PFT, HAT and ESC (60 s).

`--stage 3 4` runs some of them, `--seconds S` gives all of them together another limit, `--wheels FOLDER` installs
packages that are missing from wheels in a folder, and `--dry` tries all of it on a CPU with small stand-ins. Stage 3
leaves the page beside its results; `python scripts/run_gpu.py --output DIR --page docs/performance_gpu.md` writes it
from the results of an earlier run, on any machine. Rows of `scripts/benchmark.py` run on a GPU with `--device cuda`.
"""


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| comparison | work | device | baseline | ours | baseline ms | ours ms | speed-up | share of the limit "
        "| memory, ours / baseline |",
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.key} | {row.work} | {row.device} | {row.baseline} | {row.ours} "
        f"| {_time(row.baseline_ms, row.baseline_note)} | {_time(row.ours_ms, row.ours_note)} "
        f"| {'-' if row.speed is None else f'{row.speed:.2f}'} | {_share(row)} | {_memory(row)} |"
        for row in rows
    ]
    return "\n".join(lines)


def page(command: str, facts: Mapping[str, str], rows: Sequence[Row], missing: int, sections: Sequence[str]) -> str:
    """The page ``docs/performance.md``.

    Args:
        command: the arguments that the benchmark was given.
        facts: hardware, versions and limits of the machine.
        rows: measured or left out.
        missing: rows that were asked for and have not had their turn.
        sections: further ones: kernels, profiles.
    """
    load = f"{os.getloadavg()[1]:.1f} over the last five minutes, this program included"
    lines = "\n".join(f"- {name}: {value}" for name, value in {**facts, "load": load}.items())
    halted = f"{missing} of the rows that were asked for are not here: the run goes on, or was interrupted.\n"
    table = markdown(rows) + "\n" if rows else ""
    parts = [_HEAD.format(command), lines + "\n", halted if missing else "", table, *sections]
    return "\n".join(part for part in parts if part)


def compare(rows: Sequence[Row], earlier: Mapping[str, float]) -> str:
    """Ratio then and now, for rows that both runs have; what became slower is marked.

    Args:
        rows: of this run.
        earlier: of :func:`earlier_ratios`.
    """
    lines, slower = [], 0
    for row in rows:
        before = earlier.get(row.key)
        if before is None or row.speed is None:
            continue
        change = row.speed / before
        slower += change < SLOWER
        mark = "  SLOWER" if change < SLOWER else ""
        lines.append(f"{row.key}: {before:.2f} -> {row.speed:.2f} ({change - 1:+.0%}){mark}")
    if not lines:
        return "no row of the earlier run was measured in this one"
    return "\n".join([*lines, f"{slower} of {len(lines)} rows lost more than {1 - SLOWER:.0%} of their ratio"])


def earlier_ratios(old: Path) -> dict[str, float]:
    """Key -> the speed-up, of the rows of an earlier run that have both times.

    Raises:
        InputError: the file is no earlier ``--json``.
    """
    try:
        rows = json.loads(old.read_text(encoding="utf-8"))["rows"]
        both = [row for row in rows if row["baseline_ms"] is not None and row["ours_ms"] is not None]
        return {row["key"]: row["baseline_ms"] / row["ours_ms"] for row in both}
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(
            f"--compare {old}: expected a file that an earlier run wrote with --json ({type(error).__name__}: {error})"
        ) from None


def _time(milliseconds: float | None, note: str) -> str:
    """The time, or why there is none."""
    return note.replace("|", "/") or "-" if milliseconds is None else f"{milliseconds:.3g}"


def _share(row: Row) -> str:
    return "-" if row.share is None else f"{row.share:.0%} ({row.limit})"


def _memory(row: Row) -> str:
    if row.ours_mib is None:
        return "-"
    if row.memory is None:
        return f"- ({row.ours_mib:.0f} MiB)"
    return f"{row.memory:.2f} ({row.ours_mib:.0f} / {row.baseline_mib:.0f} MiB)"
