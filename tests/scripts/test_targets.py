"""Programs find out before their work that its result cannot be written, and leave nothing behind."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from models.evaluation import tester
from tests.runs import run_here, workplace
from utils.command import run_command


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("upscale", ["-i", "photos/HR", "-w", "none.pth", "-o", "file/out"]),
        ("upscale", ["-i", "photos/HR/photos_0.png", "-w", "none.pth", "-o", "file/out.png"]),
        ("export", ["-w", "none.pth", "-o", "file/out.pth"]),
        ("plot", ["none", "-o", "file/out.png"]),
        ("visualise", ["comparison", "--sr", "none.png", "--gt", "none.png", "-o", "file/out.png"]),
        ("prepare_demo_data", ["-o", "file/out"]),
        ("prepare_benchmarks", ["-i", "none", "-o", "file/out"]),
        ("prepare_dataset", ["meta", "-i", "none", "-o", "file/out"]),
        ("prepare_dataset", ["subimages", "-i", "none", "-o", "file/out"]),
        ("prepare_dataset", ["lr", "-i", "none", "-o", "file/out", "--scale", "2"]),
        ("prepare_dataset", ["pack", "-i", "none", "-o", "file/out.pack"]),
        ("prepare_dataset", ["lmdb", "-i", "none", "-o", "file/out.lmdb"]),
        ("prepare_dataset", ["check", "-i", "none", "--report", "file/out"]),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, list) else value,
)
def test_the_result_could_not_be_written(
    script: str, line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    Path("file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert run_command(importlib.import_module(f"scripts.{script}").main, line) == 2
    printed = capsys.readouterr().err
    assert "cannot be written: a part of this path is a file" in printed
    assert "none" not in printed  # what is wrong beside would have been found out later
    assert sorted(tmp_path.rglob("*")) == before


def test_a_test_run_looks_before_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    Path("file").touch()
    monkeypatch.setattr(tester, "check_inputs", lambda options: None)
    monkeypatch.setattr(tester, "evaluation_sets", lambda *given, **named: pytest.fail("it reads the data"))
    place = json.dumps("file/results")
    assert run_here("test.py", "-opt", "test.yml", "--force_yml", f"path:results_root={place}") == 2
    assert "is a file, not a folder; choose another" in capsys.readouterr().err
