"""The page docs/performance_gpu.md: the figures of a run on a GPU, table by table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.benchmarks.gpu.figures import figures
from scripts.benchmarks.gpu.results import Result, Results
from scripts.benchmarks.gpu.tables import TABLES, Figure
from utils.errors import InputError
from utils.files import write_text
from utils.marked import replace_marked

_HEAD = """\
# Performance on a GPU

Measured by `make gpu` ([performance.md](performance.md) says how). Times are medians of calls between CUDA events, with
the fastest and the slowest call; "speed-up" and "memory" compare a line with the first one of the same work. MiB is
the allocator's peak, weights and inputs included. Where a time is missing, its place says why.
"""
MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")
"""Lines around what is written by the program."""

_COLUMNS = (
    "work", "way", "ms", "fastest - slowest", "calls", "speed-up", "MiB", "memory", "share of the limit",
    "paper: ms, MB",
)  # fmt: skip


def write_page(results: Results, sections: Sequence[str], file: Path) -> None:
    """Write the page, or what has been measured into its place between :data:`MARKS`: what people add stays.

    Args:
        results: of a run on a GPU.
        sections: behind the tables: trainings, profiles.
        file: where.

    Raises:
        InputError: the figures are those of a dry run, or there are none.
    """
    if results.tiny:
        raise InputError("these figures are of a dry run: small sizes on a CPU; the page is of a run on a GPU")
    if not any(row.ms is not None for row in results.rows):
        raise InputError("there are no figures yet: run stage 3 on a GPU first")
    text = page(results, figures(tiny=results.tiny), sections)
    if file.exists():
        replace_marked(file, MARKS, text)
    else:
        write_text(file, f"{MARKS[0]}\n{text}{MARKS[1]}\n")


def page(results: Results, known: Sequence[Figure], sections: Sequence[str] = ()) -> str:
    """The text of the page.

    Args:
        results: of a run.
        known: the figures that the run could measure, in order.
        sections: behind the tables.
    """
    facts = "\n".join(f"- {name}: {value}" for name, value in results.machine.items())
    missing = (
        f"{results.missing} figures are missing: the run was interrupted. `--resume` measures them.\n"
        if results.missing
        else ""
    )
    rows = {row.key: row for row in results.rows}
    tables = [_table(name, [one for one in known if one.table == name and one.key in rows], rows) for name in TABLES]
    return "\n".join(part for part in (_HEAD, facts + "\n", missing, *tables, *sections) if part)


def _table(name: str, lines: Sequence[Figure], rows: dict[str, Result]) -> str:
    """One table, its works together; empty without lines."""
    if not lines:
        return ""
    works = dict.fromkeys(one.work for one in lines)
    ordered = [one for work in works for one in lines if one.work == work]
    first = {work: next(one for one in lines if one.work == work) for work in works}
    cells = [_cells(one, rows[one.key], rows[first[one.work].key], one is first[one.work]) for one in ordered]
    kept = [column for column in range(len(_COLUMNS)) if any(row[column] != "-" for row in cells)]
    text = [
        f"## {TABLES[name].title}", "", TABLES[name].text, "",
        "| " + " | ".join(_COLUMNS[column] for column in kept) + " |",
        "| " + " | ".join("---" if column < 2 else "---:" for column in kept) + " |",
    ]  # fmt: skip
    text += ["| " + " | ".join(row[column] for column in kept) + " |" for row in cells]
    return "\n".join(text) + "\n"


def _cells(figure: Figure, row: Result, first: Result, is_first: bool) -> list[str]:
    paper = figure.published
    compared = not is_first
    return [
        figure.work,
        figure.way,
        row.note.replace("|", "/") or "-" if row.ms is None else f"{row.ms:.3g}",
        "-" if row.low is None or row.high is None else f"{row.low:.3g} - {row.high:.3g}",
        str(row.calls) if row.calls else "-",
        f"{first.ms / row.ms:.2f}" if compared and first.ms and row.ms else "-",
        "-" if row.mib is None else f"{row.mib:.0f}",
        f"{row.mib / first.mib:.2f}" if compared and first.mib and row.mib is not None else "-",
        "-" if row.share is None else f"{row.share:.0%} ({row.limit})",
        "-" if paper is None else f"{paper.ms:g}" + ("" if paper.mb is None else f", {paper.mb:g}"),
    ]
