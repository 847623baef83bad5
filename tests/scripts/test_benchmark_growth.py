"""How cost grows: rows, exponents, and what a page has of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from scripts.benchmarks import growth
from scripts.benchmarks.growth import CASES, VARIANTS, Case, curve_of, evaluation, section
from scripts.benchmarks.measure import Row
from tests.runs import run_here


def rows_of(name: str, time: float, memory: float) -> list[Row]:
    """Of a network whose time and memory grow with these exponents, but for small images, which take as long as any."""

    def value(case: Case, exponent: float) -> float:
        return math.pow(max(case.pixels, growth.LEAST), exponent)

    return [
        Row(f"growth/{name}_{called}", "w", "a", "b", 1.0, value(case, time), 1.0, value(case, memory))
        for called, case in CASES.items()
    ]


def test_exponents_are_those_of_large_images() -> None:
    rows = rows_of("hat", 1.25, 0.5)
    assert curve_of(rows, "hat", "ours_ms", batches=False).exponent == pytest.approx(1.25)
    assert curve_of(rows, "hat", "ours_mib", batches=False).exponent == pytest.approx(0.5)
    batches = curve_of(rows, "hat", "ours_ms", batches=True)
    assert batches.exponent == pytest.approx(1.25)
    assert batches.pixels == (4096, 8192, 16384, 32768)
    assert not curve_of(rows, "esc", "ours_ms", batches=False).pixels


def test_the_table_names_what_was_measured() -> None:
    rows = rows_of("hat", 1, 1) + rows_of("esc", 2, 1)[:3]
    lines = section(rows, "growth", {"hardware": {"cpu": "X"}, "versions": {"torch": "9"}}).splitlines()
    assert lines[0] == "`python scripts/benchmark.py growth`: cpu X; torch 9."
    table = {line.split(" | ")[0]: line for line in lines[4:-2]}
    assert table["| HAT-S, 1 group of 2 blocks"].endswith("| 921,600 | 921,600 | 1.00 | 1.00 | 1.00 | 1.00 |")
    assert table["| ESC-light, 1 block"].endswith("| 268,435,456 | 16,384 |  |  |  |  |")


def test_a_network_is_measured_and_put_into_a_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.md"
    page.write_text("\n".join(("before", *growth.MARKS, "after")))
    line = ["scripts/benchmark.py", "growth", "--only", "growth/plainusr_32x32", "--repeats", "1", "--page", str(page)]
    assert run_here(*line) == 0
    assert "| PlainUSR-U | " in page.read_text()
    assert (tmp_path / growth.PICTURE).stat().st_size > 1000


@pytest.mark.parametrize("name", VARIANTS)
def test_every_network_is_small(name: str) -> None:
    evaluation(name, Case(1, 32, 32))()
