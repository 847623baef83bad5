"""Runs of the benchmark as a whole: rows that fail, and runs that are interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from scripts import benchmark
from scripts.benchmarks import kernels, profiling
from scripts.benchmarks.measure import Comparison, Side, Work
from utils.command import run_command
from utils.errors import InputError


def row(name: str, work: Work, made: Callable[[], None] = lambda: None) -> Comparison:
    """One that takes no time; ``made`` is called when it is prepared."""

    def prepare() -> Work:
        made()
        return work

    return Comparison(
        f"metrics/{name}", name, Side("a", lambda: lambda: None), Side("b", prepare), quick=True, memory=False
    )


def nothing() -> None:
    """No work."""


def broken() -> None:
    """What fails."""
    raise ValueError("a line\nand another")


def interrupted() -> None:
    """Ctrl-C."""
    raise KeyboardInterrupt


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the rows that there are."""

    def put(*found: Comparison) -> None:
        monkeypatch.setattr(benchmark, "comparisons", lambda: {one.key: one for one in found})

    return put


def run(folder: Path, *more: str) -> tuple[int, list[dict[str, object]], str]:
    """Exit code, rows and page of a quick run."""
    files = ["--json", str(folder / "rows.json"), "--markdown", str(folder / "page.md")]
    code = run_command(benchmark.main, [*more, "metrics", "--quick", *files])
    held = json.loads((folder / "rows.json").read_text())
    return code, held["rows"], (folder / "page.md").read_text()


def test_a_row_that_fails_does_not_stop_the_others(
    tmp_path: Path, rows: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    rows(row("first", nothing), row("broken", broken), row("last", nothing))
    code, found, page = run(tmp_path)
    assert code == 1
    assert [(one["key"], one["failed"]) for one in found] == [
        ("metrics/first", False), ("metrics/broken", True), ("metrics/last", False),
    ]  # fmt: skip
    assert "| failed: ValueError: a line |" in page
    assert "interrupted" not in page
    printed = capsys.readouterr()
    assert "error: metrics/broken: failed: ValueError: a line" in printed.err
    assert "Traceback" in printed.err
    assert "| metrics/last |" in printed.out


def test_an_interrupted_run_keeps_its_rows_and_is_gone_on_with(
    tmp_path: Path, rows: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    rows(row("first", nothing), row("second", interrupted), row("third", nothing))
    code, found, page = run(tmp_path)
    assert code == 130
    assert [one["key"] for one in found] == ["metrics/first"]
    assert "2 of the rows that were asked for are not here" in page
    assert "| metrics/first |" in capsys.readouterr().out
    made: list[str] = []
    rows(*(row(name, nothing, partial(made.append, name)) for name in ("first", "second", "third")))
    code, found, page = run(tmp_path, "--resume")
    assert code == 0
    assert made == ["second", "third"]
    assert [one["key"] for one in found] == ["metrics/first", "metrics/second", "metrics/third"]
    assert "are not here" not in page
    assert run(tmp_path, "--resume")[1] == found


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, rows: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    rows(row("first", lambda: pytest.fail("measured")))
    (tmp_path / "file").touch()
    assert run_command(benchmark.main, ["metrics", "--json", str(tmp_path / "file" / "rows.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_report_that_cannot_be_made_does_not_cost_the_rows(
    tmp_path: Path, rows: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler() -> None:
        raise InputError("kernels: there is no nvcc")

    monkeypatch.setattr(kernels, "compile_all", no_compiler)
    monkeypatch.setattr(profiling, "cpu_profiles", lambda size, seconds: [] if size == (180, 320) else pytest.fail())
    rows(row("first", nothing))
    code, found, page = run(tmp_path, "--size", "320x180", "kernels", "profile")
    assert code == 1
    assert len(found) == 1
    assert "1 x 3 x 180 x 320" in page
    assert "error: kernels: there is no nvcc" in capsys.readouterr().err
