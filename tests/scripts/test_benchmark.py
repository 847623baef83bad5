"""The benchmark measures what it says, and every comparison's two sides can be built."""

from __future__ import annotations

import importlib.util
import json
import mmap
import time
from pathlib import Path
from types import ModuleType

import pytest

from scripts.benchmarks.measure import Comparison, Row, Side, Work, markdown, measure
from tests.runs import ROOT
from utils.errors import InputError


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """scripts/benchmark.py as a module."""
    spec = importlib.util.spec_from_file_location("focalsr_benchmark", ROOT / "scripts/benchmark.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sleeper(name: str, seconds: float) -> Side:
    """A side that takes this long."""

    def prepare() -> Work:
        return lambda: time.sleep(seconds)

    return Side(name, prepare)


def test_the_ratio_is_that_of_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "scripts.benchmarks.measure.peak_memory", lambda key, side: {"baseline": 8.0, "ours": 2.0}[side]
    )
    row = measure(Comparison("x/y", "sleeping", sleeper("long", 0.03), sleeper("short", 0.01)), repeats=3, seconds=0)
    assert 1.5 < row.speed < 6
    assert row.memory == 0.25
    assert "| x/y | sleeping | long | short |" in markdown([row])


def test_memory_is_the_peak_beyond_what_was_held() -> None:
    from scripts.benchmarks.measure import own_peak

    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the peak")

    def work() -> None:
        with mmap.mmap(-1, 64 << 20) as memory:  # from the system: the heap may have room that is counted already
            for page in range(0, 64 << 20, 4096):
                memory[page] = 1

    assert 60 < own_peak(work) < 80


def test_groups_and_keys_choose(benchmark: ModuleType) -> None:
    assert {found.key.split("/")[0] for found in benchmark.chosen([])} <= set(benchmark.GROUPS)
    assert [found.key for found in benchmark.chosen(["metrics/ssim"])] == ["metrics/ssim"]
    with pytest.raises(InputError, match="unknown group"):
        benchmark.chosen(["metric"])


def test_small_comparisons_run(benchmark: ModuleType) -> None:
    for found in benchmark.chosen(["metrics/ssim", "data/imresize_x4", "train/plainusr_U"]):
        for side in (found.baseline, found.ours):
            side.prepare()()


def test_earlier_runs_are_compared(benchmark: ModuleType, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps({"rows": [{"key": "x/y", "baseline_ms": 4.0, "ours_ms": 2.0}]}))
    row = Row("x/y", "w", "a", "b", 3.0, 2.0, None, None)
    assert benchmark.compare([row], old) == "x/y: 2.00 -> 1.50 (-25%)"
    assert "# Performance" in benchmark.report([row], quick=True)
