"""``analyse.py complexity``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from scripts import analyse
from scripts.analyses import complexity
from tests.runs import ROOT
from utils.command import run_command


def run(*arguments: object) -> int:
    return run_command(analyse.main, ["complexity", *map(str, arguments)])


def test_tables_of_published_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    networks = ("plainusr_u", "esc_fp_x4", "-opt", ROOT / "options/test_plainusr_t_x4.yml")
    assert run(*networks, "--scales", 3, 4, "--no_time", "--size", "24x40", "--chart", "paper", "-o", out) == 0
    text = capsys.readouterr().out
    assert [line.split()[:2] for line in text.splitlines()[2:6]] == [
        ["PlainUSR-U", "x3"], ["PlainUSR-U", "x4"], ["ESC-FP", "x4"], ["PlainUSR-T", "x4"],
    ]  # fmt: skip
    assert "ESC, Table 2 of the paper (arXiv 2503.06671)  1280x720 output" in text
    assert "ESC-FP x4 has 0.539 M parameters" in text
    found = json.loads((out / "complexity.json").read_text())
    assert found["focalsr_analysis"] == "complexity"
    assert [row["size"] for row in found["rows"]] == [[24, 40]] * 4
    assert found["papers"][0]["ours_by_rule"] == 60_840_592_000
    assert {path.suffix for path in out.iterdir()} == {".json", ".csv", ".md", ".tex", ".png", ".pdf"}
    assert (out / "complexity.tex").read_text().startswith("\\begin{tabular}")
    assert run("plainusr_u", "--no_time", "-o", out) == 2
    assert "complexity.json exists" in capsys.readouterr().err


def test_latency_and_memory_of_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ("--device", "cpu", "--passes", 3, "--warm_ups", 1, "--threads", 1, "--chart", "multiply_adds")
    assert run("plainusr_u_x4", "--size", "16x16", *options, "-o", out) == 0
    assert "ms (median of 3, 10 % to 90 %:" in capsys.readouterr().out
    measured = json.loads((out / "complexity.json").read_text())["rows"][0]["measured"]
    assert len(measured["timing"]["passes"]) == 3
    assert measured["threads"] == 1
    assert measured["p10"] <= measured["median"] <= measured["p90"]
    assert measured["memory"] is None or measured["memory"] > 2**16


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name a network: hat_s_x4, or all, or -opt FILE, or -w FILE with its weights"),
        (("hat_z",), 'no published network is called "hat_z" (did you mean "hat_s"?)'),
        (("esc_x7",), 'no published network is called "esc_x7"; there is no esc x7'),
        (
            ("esc", "--chart", "psnr", "-o", "OUT", "--no_time"),
            "--chart psnr shows latency, which --no_time leaves out",
        ),
        (("esc", "--chart", "paper", "--no_time"), "--chart: name a folder for it with -o"),
        (("-w", "net.onnx"), "net.onnx: an ONNX file shows no layers to count"),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*(str(tmp_path / "out") if text == "OUT" else text for text in arguments)) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_a_process_that_was_ended_is_a_row_without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended:
        returncode, stdout = -9, ""

    monkeypatch.setattr(subprocess, "run", lambda *args, **options: Ended())
    assert "ended by the system" in complexity._ask({})["failed"]
