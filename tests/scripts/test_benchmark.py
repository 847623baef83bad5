"""The benchmark measures what it says, and every comparison's two sides can be built."""

from __future__ import annotations

import importlib.util
import json
import mmap
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from scripts.benchmarks import needs, pixels
from scripts.benchmarks.limits import Cost, Limits
from scripts.benchmarks.measure import Comparison, Effort, Pilot, Side, Work, free_mib, measure
from scripts.benchmarks.memory import MemoryMeter, own_peak
from scripts.benchmarks.startup import until_line
from tests.runs import ROOT
from utils import devices
from utils.errors import InputError

EFFORT = Effort(repeats=3, seconds=0, max_seconds=60)
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")


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
    return Side(name, lambda: lambda: time.sleep(seconds))


def meter() -> MemoryMeter:
    """One that measures no memory."""
    return MemoryMeter(Limits(quick=True), active=False)


def keys(benchmark: ModuleType, *arguments: str) -> list[str]:
    """The rows that a command line asks for."""
    return [row.key for row in benchmark.chosen(benchmark.parse(arguments))]


def test_the_ratio_is_that_of_the_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.benchmarks.measure.timed", lambda work, calls=1: work())  # it says what it took
    order = []

    def timed(name: str, *seconds: float) -> Side:
        left = iter((0.5, *seconds))  # the first call warms up

        def work() -> float:
            order.append(name)
            return next(left)

        return Side(name, lambda: work)

    row = measure(Comparison("x/y", "w", timed("long", 3, 5, 4), timed("short", 2, 1, 2)), EFFORT, meter())
    assert (row.baseline_ms, row.ours_ms, row.speed) == (4000, 2000, 2)
    assert order[2:] in (["long", "short"] * 3, ["short", "long"] * 3), "in turns"
    assert (row.baseline, row.ours, row.turns, row.device) == ("long", "short", 3, "cpu")
    assert (row.baseline_note, row.ours_note, row.failed) == ("", "", False)


def test_short_calls_are_timed_several_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, list[int]] = {"long": [], "short": []}

    def timed(work: Work, calls: int = 1) -> float:
        name = str(work())
        counts[name].append(calls)
        return {"long": 0.05, "short": 0.004}[name]

    monkeypatch.setattr("scripts.benchmarks.measure.timed", timed)
    long, short = Side("long", lambda: lambda: "long"), Side("short", lambda: lambda: "short")
    measure(Comparison("x/y", "w", long, short, memory=False), EFFORT, meter())
    assert counts == {"long": [1, 1, 1, 1], "short": [1, 1, 5, 5, 5]}  # 20 ms at least


def test_memory_is_that_of_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"baseline": 8.0, "ours": 2.0}
    monkeypatch.setattr(MemoryMeter, "peak", lambda self, key, side, prepare, device, pilot=False: peaks[side])
    row = measure(Comparison("x/y", "sleeping", sleeper("a", 0), sleeper("b", 0)), EFFORT, meter())
    assert row.memory == 0.25
    bare = measure(Comparison("x/y", "sleeping", sleeper("a", 0), sleeper("b", 0), memory=False), EFFORT, meter())
    assert bare.memory is None


def test_what_would_take_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pilot = Pilot(lambda: lambda: time.sleep(0.01), 1e6)
    slow = Side("slow", lambda: pytest.fail("this was to be left out"), pilot)
    row = measure(Comparison("x/y", "w", slow, sleeper("short", 0)), EFFORT, meter())
    assert (row.baseline_ms, row.speed, row.failed) == (None, None, False)
    assert row.ours_ms is not None
    assert re.fullmatch(r"left out: about \d{5,} s \(--max-seconds 60\)", row.baseline_note)
    row = measure(Comparison("x/y", "w", sleeper("short", 0), slow), EFFORT, meter())
    assert (row.baseline_ms, row.ours_ms, row.baseline_note) == (None, None, "")
    assert row.ours_note.startswith("left out: about ")
    monkeypatch.setattr(MemoryMeter, "peak", lambda self, key, side, prepare, device, pilot=False: 1e9)
    large = Side("large", slow.prepare, Pilot(lambda: lambda: None, 2.0))
    row = measure(Comparison("x/y", "w", sleeper("short", 0), large), EFFORT, meter())
    assert row.ours_note.startswith("left out: about 1953125 GiB, and ")


@pytest.mark.parametrize("both", [False, True])
def test_memory_is_kept_for_the_sides_that_keep_it(both: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def noted(what: str) -> bool:
        seen.append(what)
        time.sleep(0.03)
        return True

    def side(name: str, *, keeps: bool) -> Side:
        return Side(name, lambda: lambda: noted(name), keeps_memory="training" if keeps else "")

    monkeypatch.setattr("scripts.benchmarks.measure.keep_freed_memory", lambda: noted("keep"))
    monkeypatch.setattr("scripts.benchmarks.measure.return_freed_memory", lambda: noted("return"))

    row = Comparison("x/y", "w", side("a", keeps=both), side("b", keeps=True), memory=False)
    measure(row, Effort(repeats=1, seconds=0, max_seconds=9), meter())
    # Each turn of a side alone with its setting begins with a call that is not timed.
    alone = ["keep", "b", "b", "return", "a", "keep", "b", "b", "return", "a"]
    assert seen == (["keep", "b", "b", "a", "b", "a", "return"] if both else alone)


def test_what_the_device_cannot_do_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(function: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", compile_nothing)
    needs.lack.cache_clear()
    compiled = Side("compiled", lambda: pytest.fail("this cannot be built"), needs=("bfloat16", "torch.compile"))
    try:
        row = measure(Comparison("x/y", "w", sleeper("short", 0), compiled), EFFORT, meter())
        assert needs.missing(("bfloat16",), "cpu") is None
    finally:
        needs.lack.cache_clear()
    assert row.ours_note == "left out: torch.compile does not work here (RuntimeError)"


@pytest.mark.parametrize("native", [frozenset({"bf16"}), frozenset()])
def test_bfloat16_is_measured_where_it_is_arithmetic(native: frozenset[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "native_precisions", lambda device: native)
    needs.lack.cache_clear()
    try:
        missing = needs.missing(("native bfloat16",), "cpu")
    finally:
        needs.lack.cache_clear()
    assert missing == (None if native else "no bfloat16 arithmetic: networks stay in float32")


def test_what_was_compiled_for_a_row_does_not_count_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    resets = []
    monkeypatch.setitem(sys.modules, "torch._dynamo", sys.modules.get("torch._dynamo", ModuleType("dynamo")))
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    for _ in range(2):
        measure(Comparison("x/y", "w", sleeper("a", 0), sleeper("b", 0)), EFFORT, meter())
    assert len(resets) == 2


def test_a_full_memory_does_not_end_the_run() -> None:
    def full() -> Work:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    for side in (Side("full", full), Side("full", lambda: full)):
        row = measure(Comparison("x/y", "w", side, sleeper("short", 0)), EFFORT, meter())
        assert (row.baseline_ms, row.baseline_note) == (None, "left out: the memory does not suffice")
        row = measure(Comparison("x/y", "w", sleeper("short", 0), side), EFFORT, meter())
        assert (row.ours_ms, row.ours_note) == (None, "left out: the memory does not suffice")
    free = free_mib("cpu")
    assert free is None or free > 1


@linux
def test_memory_is_the_peak_beyond_what_was_held() -> None:
    def work() -> None:
        with mmap.mmap(-1, 64 << 20) as memory:  # from the system: the heap may have room that is counted already
            for page in range(0, 64 << 20, 4096):
                memory[page] = 1

    assert 60 < own_peak(work) < 80


SERVER = """
import os, mmap
from scripts.benchmarks.memory import serve
def work(size):
    with mmap.mmap(-1, size << 20) as memory:
        for page in range(0, size << 20, 4096): memory[page] = 1
    print("this is no answer")
def find(key, side, pilot):
    if key == "dies":
        return lambda: os._exit(3), None
    if key == "loads":
        return lambda: held.append(bytearray(b"x" * (48 << 20))) or (lambda: work(16)), ("wave",)
    return lambda: lambda: work(16 if pilot else 32), None
held = []
serve(find)
"""


@linux
def test_memory_is_measured_in_a_process_for_each_work() -> None:
    questions = [["x/y", "ours", False], ["dies", "ours", False], ["x/y", "ours", True], ["loads", "ours", False]]
    done = subprocess.run(
        [sys.executable, "-c", SERVER], cwd=ROOT, input="".join(json.dumps(asked) + "\n" for asked in questions),
        text=True, capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    whole, none, small, loading = (json.loads(line) for line in done.stdout.splitlines())
    assert none is None
    assert loading > 48 + 14
    assert 30 < whole < 48
    assert 15 < small < 28


def test_a_gpu_is_hidden_from_the_process_that_measures_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def started(*_: object, env: dict[str, str], **__: object) -> None:
        seen.append(env)
        raise BrokenPipeError("no process")

    monkeypatch.setattr(subprocess, "Popen", started)
    meter = MemoryMeter(Limits(quick=True))
    with pytest.raises(BrokenPipeError, match="no process"):
        meter.peak("metrics/ssim", "ours", lambda: lambda: None, "cpu")
    meter._close()
    assert [env["CUDA_VISIBLE_DEVICES"] for env in seen] == [""]


def test_groups_keys_and_patterns_choose(benchmark: ModuleType) -> None:
    everything = benchmark.comparisons()
    quick, usual, large = keys(benchmark, "--quick"), keys(benchmark), keys(benchmark, "--all")
    assert (
        set(quick)
        < set(usual)
        < set(large)
        == {key for key in everything if not key.startswith(("runtimes/", "growth/"))}
    )
    for chosen in (quick, usual):
        assert {key.split("/")[0] for key in chosen} == set(benchmark.GROUPS)
    assert keys(benchmark, "metrics/ssim") == ["metrics/ssim"]
    assert {key.split("/")[0] for key in keys(benchmark, "ops", "metrics", "--quick")} == {"ops", "metrics"}
    assert keys(benchmark, "--only", "train/pft_x4_published_*") == [
        f"train/pft_x4_published_{mode}" for mode in ("float32", "bf16", "float32_compiled", "bf16_compiled")
    ]
    assert keys(benchmark, "kernels", "profile") == []
    with pytest.raises(InputError, match='unknown group "metric"'):
        keys(benchmark, "metric")
    with pytest.raises(InputError, match="no row fits"):
        keys(benchmark, "--only", "nothing")


def test_no_two_rows_have_one_name(benchmark: ModuleType) -> None:
    names = [row.key for module in benchmark._MODULES for row in module.comparisons()]
    assert len(names) == len(set(names))


def test_published_sizes_are_those_of_the_option_files(benchmark: ModuleType) -> None:
    rows = benchmark.comparisons()
    assert "step, 4 x 3 x 64 x 64" in rows["train/pft_x4_published_bf16"].work
    assert "step, 16 x 3 x 64 x 64" in rows["train/esc_x4_published_float32"].work
    assert "step, 12 x 3 x 64 x 64" in rows["train/esc_real_x4_published_bf16"].work
    assert "step, 16 x 3 x 96 x 96" in rows["train/esc_xl_finetune_x2_published_bf16"].work
    assert "1 x 3 x 360 x 640" in rows["networks/hat_l_x2_640x360_bf16_compiled"].work


def test_bad_arguments_are_told_before_anything_is_measured(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "present", devices.Present)
    for arguments, message in (
        (["--repeats", "0"], "--repeats"),
        (["--max-seconds", "0"], "--max-seconds"),
        (["--device", "cuda"], "sees no such device here; there is cpu"),
        (["--compare", str(tmp_path / "absent.json")], "--compare"),
        (["--resume"], "--json"),
        (["--size", "64x64"], "group profile"),
        (["--page", "page.md"], "group runtimes"),
        (["profile", "--size", "64"], "such as 320x180"),
        (["profile", "--size", "0x8"], "such as 320x180"),
    ):
        with pytest.raises(InputError, match=message):
            benchmark.main(arguments)


@pytest.mark.parametrize(
    "key",
    [
        "metrics/ssim", "data/imresize_x4", "train/plainusr_U", "ops/smm_qmk_quick_forward",
        "ops/smm_amv_quick_backward", "ops/focus_k64_quick_backward", "ops/attention_hat_quick_backward",
        "ops/gelu_depthwise_k7_quick_forward", "ops/gelu_depthwise_k7_quick_backward",
        "ops/linear_gelu_quick_forward", "ops/linear_gelu_quick_backward", "networks/esc_x4_32x32_float32",
    ],
)  # fmt: skip
def test_small_comparisons_run(benchmark: ModuleType, key: str) -> None:
    [found] = benchmark.chosen(benchmark.parse([key]))
    for side in (found.baseline, found.ours):
        side.prepare()()


def test_the_published_steps_can_be_built(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOCALSR_OPS", "reference")
    row = benchmark.comparisons()["train/plainusr_x4_published_bf16"]
    assert row.ours.pilot is not None
    row.ours.pilot.prepare()()


def test_the_plain_resize_is_the_same() -> None:
    plain, ours = (np.asarray(prepare(24, 20)()) for prepare in (pixels.loop, pixels.ours))
    np.testing.assert_allclose(plain, ours, rtol=0, atol=1e-6)


def test_shares_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "bandwidth", lambda self, device: 1e9)
    monkeypatch.setattr(Limits, "rate", lambda self, device, dtype: 1e10)
    assert Limits().share(Cost(flops=1e9, moved=5e8), 1.0, "cpu") == (0.5, "bandwidth")
    assert Limits().share(Cost(flops=2e9, moved=1e8), 0.4, "cpu") == (0.5, "arithmetic")


def test_limits_are_measured_once() -> None:
    limits = Limits(quick=True)
    assert limits.bandwidth("cpu") == limits.bandwidth("cpu") > 1e6
    assert limits.rate("cpu", torch.float32) == limits.rate("cpu", torch.float32) > 1e6
    assert list(limits.described()) == ["copying, cpu", "matrix products, cpu, float32"]


def test_a_process_is_ended_at_its_line(tmp_path: Path) -> None:
    script = "import time; print('one', flush=True); print('first step', flush=True); time.sleep(300)"
    until_line([sys.executable, "-c", script], tmp_path, "first")
    with pytest.raises(RuntimeError, match="no such module"):
        until_line([sys.executable, "-c", "print('no such module')"], tmp_path, "first")
