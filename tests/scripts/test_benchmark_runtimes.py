"""The rows of networks in other runtimes, and the table that a page has of them."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from scripts.benchmarks import data, runtimes
from scripts.benchmarks.limits import Limits
from scripts.benchmarks.measure import Comparison, Effort, Program, Row, Side, measure
from scripts.benchmarks.memory import MemoryMeter
from tests.runs import run_here

ROW = Row("runtimes/a_onnxruntime", "a x4, 1 x 3 x 2 x 2", "torch, eager", "ONNX Runtime, CPU", 20.0, 10.0, 30.0, 40.0)


def program(level: float, file: Path) -> Program:
    return Program(lambda: torch.full((1, 3, 2, 2), level / 255), file)


def test_a_row_of_programs_has_the_file_and_the_difference(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(bytes(3 << 19))
    baseline, ours = (Side(f"{level}", functools.partial(program, level, file)) for level in (100.4, 102.6))
    meter = MemoryMeter(Limits(True), active=False)
    row = measure(Comparison("runtimes/x", "w", baseline, ours), Effort(2, 0, 60), meter)
    assert (row.file_mib, row.levels) == (1.5, 3)
    row = measure(Comparison("runtimes/x", "w", Side("a", lambda: lambda: None), ours), Effort(2, 0, 60), meter)
    assert (row.file_mib, row.levels) == (1.5, None)


def test_the_table_has_networks_by_runtimes() -> None:
    rows = [
        Row(**{**vars(ROW), "file_mib": 2.25, "levels": 1}),
        Row(**{**vars(ROW), "ours": "OpenVINO", "ours_ms": None, "ours_note": "left out: openvino is not installed"}),
        Row(**{**vars(ROW), "key": "ops/x"}),
        Row(**{**vars(ROW), "baseline": "ONNX Runtime, CPU", "ours": "torch, eager, bf16"}),
    ]
    lines = runtimes.section(rows, "runtimes", {"hardware": {"cpu": "X"}, "versions": {"torch": "9"}}).splitlines()
    assert lines[0].startswith("`python scripts/benchmark.py runtimes`: cpu X; torch 9")
    assert lines[-3:] == [
        "| a x4, 1 x 3 x 2 x 2 | torch, eager | | | | 30 | | |",
        "| a x4, 1 x 3 x 2 x 2 | ONNX Runtime, CPU | 10 | 20 | 2.00 | 40 | 2.2 | 1 |",
        "| a x4, 1 x 3 x 2 x 2 | OpenVINO | left out: openvino is not installed | | | | | |",
    ]


def test_a_small_network_is_measured_and_put_into_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    page = tmp_path / "page.md"
    page.write_text("\n".join(("before", *runtimes.MARKS, "after")))
    (tmp_path / "files").mkdir()
    monkeypatch.setenv(data.SHARED, str(tmp_path / "files"))
    assert run_here("scripts/benchmark.py", "runtimes", "--quick", "--page", str(page)) == 0
    text = page.read_text()
    assert "| plainusr_u x4, 1 x 3 x 24 x 32 | ONNX Runtime, CPU | " in text
    assert text.startswith("before\n")
    assert text.endswith("after")
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["plainusr_u.onnx"]
