"""Rows of costs as a table in text, Markdown, CSV and LaTeX, beside what papers print, and as sentences."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from analysis.complexity.counting import Counts
from analysis.complexity.latency import Measured
from analysis.complexity.papers import RULES, Paper, Printed

Form = Literal["text", "markdown", "csv", "latex"]


@dataclass(frozen=True)
class Row:
    """A network at a scale.

    Attributes:
        name: as papers write it, or of the file.
        scale: s.
        counts: at the size that was asked for.
        measured: latency and memory; None where they were not measured.
        failed: why they could not be.
    """

    name: str
    scale: float
    counts: Counts
    measured: Measured | None = None
    failed: str = ""


@dataclass(frozen=True)
class Beside:
    """A printed figure and ours at the paper's size.

    Attributes:
        paper: where it stands.
        printed: what it says.
        ours: counts at the paper's size.
    """

    paper: Paper
    printed: Printed
    ours: Counts

    @property
    def multiply_adds(self) -> int:
        """Ours by the paper's rule; by fvcore's where it states none."""
        own = self.ours.own if self.paper.rule == "own" else None
        return self.ours.fvcore if own is None else own


Column = tuple[str, Callable[[Row], str]]


def columns(rows: Sequence[Row], *, activations: bool = False) -> list[Column]:
    """The columns of a table: head, and what a row has there."""
    found: list[Column] = [
        ("network", lambda row: row.name),
        ("scale", lambda row: f"x{row.scale:g}"),
        ("parameters", lambda row: f"{row.counts.parameters:,}"),
        ("input", lambda row: _size(row.counts.size)),
        ("computed", computed),
        ("multiply-adds, G", lambda row: giga(row.counts.multiply_adds)),
        ("FLOPs (2 x multiply-adds), G", lambda row: giga(row.counts.flops)),
        ("by fvcore's rules, G", lambda row: giga(row.counts.fvcore)),
    ]
    if any(row.counts.own is not None for row in rows):
        own = ("by the authors' counter, G", lambda row: "-" if row.counts.own is None else giga(row.counts.own))
        found.append(own)
    if activations:
        found += [
            ("activations, M", lambda row: f"{row.counts.activations / 1e6:.2f}"),
            ("#Conv", lambda row: str(row.counts.convolutions)),
        ]
    if any(row.measured is not None or row.failed for row in rows):
        found += [
            ("latency, ms: median", _of_measured(lambda measured: milliseconds(measured.timing.median))),
            ("mean", _of_measured(lambda measured: milliseconds(measured.timing.mean))),
            ("10 % to 90 %", _of_measured(_spread)),
            ("peak memory, MiB", _of_measured(_memory)),
        ]
    return found


def with_tf32(rows: Sequence[Row]) -> list[Row]:
    """The rows, and one more behind each whose passes were timed with TF32 too."""
    found = []
    for row in rows:
        found.append(row)
        if row.measured is not None and row.measured.tf32 is not None:
            rounded = replace(row.measured, timing=row.measured.tf32, tf32=None)
            found.append(replace(row, name=f"{row.name}, TF32", measured=rounded))
    return found


def beside_columns() -> list[tuple[str, Callable[[Beside], str]]]:
    """The columns of the table of papers' figures."""
    return [
        ("network", lambda item: item.printed.network),
        ("scale", lambda item: f"x{item.printed.scale}"),
        ("paper", lambda item: item.paper.source),
        ("at", lambda item: item.paper.at),
        ("rule", lambda item: RULES[item.paper.rule]),
        ("parameters, M: paper", lambda item: _printed(item.printed.parameters)),
        ("ours", lambda item: f"{item.ours.parameters / 1e6:.3f}"),
        ("multiply-adds, G: paper", lambda item: _printed(item.printed.multiply_adds)),
        ("ours ", lambda item: giga(item.multiply_adds)),
        ("difference", _difference),
        ("latency, ms: paper", lambda item: _printed(item.printed.latency)),
        ("memory, MB: paper", lambda item: _printed(item.printed.memory)),
    ]


def formatted(heads: Sequence[str], cells: Sequence[Sequence[str]], form: Form, left: int = 1) -> str:
    """A table in one of the forms.

    Args:
        heads: of the columns.
        cells: of the rows.
        form: "latex" is in booktabs form.
        left: so many columns begin at the left, numbers end at the right.
    """
    if form == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([[head.strip() for head in heads], *cells])
        return out.getvalue()
    if form == "markdown":
        aligned = ["---"] * left + ["---:"] * (len(heads) - left)
        return "\n".join(f"| {' | '.join(row)} |" for row in (heads, aligned, *cells)) + "\n"
    if form == "latex":
        lines = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in (heads, *cells)]
        spec = "l" * left + "r" * (len(heads) - left)
        inside = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        return "\n".join([rf"\begin{{tabular}}{{{spec}}}", *inside, r"\end{tabular}"]) + "\n"
    widths = [max(len(row[column]) for row in (heads, *cells)) for column in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *cells)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


def main_table(rows: Sequence[Row], form: Form, *, activations: bool = False) -> str:
    """The table of costs."""
    wanted = columns(rows, activations=activations)
    cells = [[cell(row) for _, cell in wanted] for row in with_tf32(rows)]
    return formatted([head for head, _ in wanted], cells, form)


def paper_table(items: Sequence[Beside], form: Form) -> str:
    """The table of papers' figures, ours beside them, each at the paper's size and by its rule."""
    wanted = beside_columns()
    return formatted([head for head, _ in wanted], [[cell(item) for _, cell in wanted] for item in items], form, left=5)


def sentence(row: Row) -> str:
    """What a paper's text would say of a network."""
    counts = row.counts
    text = (
        f"{row.name} x{row.scale:g} has {counts.parameters / 1e6:.3f} M parameters and needs "
        f"{giga(counts.multiply_adds)} G multiply-adds ({giga(counts.flops)} GFLOPs) for an input of "
        f"{_size(counts.size)}"
    )
    text += f", computed at {computed(row)}" if counts.windows != counts.size else ""
    measured = row.measured
    if measured is None:
        return f"{text}; not measured: {row.failed}." if row.failed else f"{text}."
    threads = "" if measured.threads is None else f", {measured.threads} thread{'s' if measured.threads > 1 else ''}"
    timing = measured.timing
    return (
        f"{text}; {milliseconds(timing.median)} ms (median of {len(timing.passes)}, 10 % to 90 %: {_spread(measured)}) "
        f"and {_memory(measured)} MiB on {measured.device}{threads}, float32."
    )


def computed(row: Row) -> str:
    """The size that is computed, and that of the windows where it is another."""
    own, windows = _size(row.counts.computed), _size(row.counts.windows)
    return own if own == windows else f"{own} ({windows} in windows)"


def giga(number: int) -> str:
    """10^9, with two decimals, or three digits below 1."""
    return f"{number / 1e9:.2f}" if number >= 1e9 else f"{number / 1e9:.3g}"


def milliseconds(number: float) -> str:
    """With three digits at least."""
    return f"{number:.1f}" if number >= 10 else f"{number:.3g}"


def _of_measured(cell: Callable[[Measured], str]) -> Callable[[Row], str]:
    return lambda row: (row.failed or "-") if row.measured is None else cell(row.measured)


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _spread(measured: Measured) -> str:
    return " to ".join(milliseconds(measured.timing.percentile(share)) for share in (10, 90))


def _memory(measured: Measured) -> str:
    return "unknown" if measured.memory is None else f"{measured.memory / 2**20:.0f}"


def _printed(number: float | None) -> str:
    return "-" if number is None else f"{number:g}"


def _difference(item: Beside) -> str:
    printed = item.printed.multiply_adds
    if not printed:
        return "-"
    percent = round(100 * (item.multiply_adds / 1e9 / printed - 1), 1)
    return f"{percent:+.1f} %" if percent else "0.0 %"


def _latex(text: str) -> str:
    for sign in "%#&_$":
        text = text.replace(sign, f"\\{sign}")
    return text.strip()
