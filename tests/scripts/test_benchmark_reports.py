"""What the benchmark writes: tables, comparisons with an earlier run, kernels, profiles."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from scripts.benchmarks.kernels import Resources, resources
from scripts.benchmarks.kernels import section as kernel_section
from scripts.benchmarks.measure import LeftOut, Row
from scripts.benchmarks.profiling import NAMES, OTHER, cpu_section, kind_of, parts_of, shares
from scripts.benchmarks.report import GPU, as_json, compare, left_out, markdown, page
from utils.errors import InputError

ROW = Row("x/y", "w", "a", "b", 3.0, 2.0, 8.0, 2.0, share=0.5, limit="bandwidth")
ALONE = Row("x/z", "w", "a", "b", None, 2.0, None, 2.0, note="estimated 99 s a call")


def test_the_table_has_what_was_measured() -> None:
    lines = markdown([ROW, ALONE]).splitlines()
    assert lines[2] == "| x/y | w | cpu | a | b | 3 | 2 | 1.50 | 50% (bandwidth) | 0.25 (2 / 8 MiB) |"
    assert lines[3] == "| x/z | w | cpu | a | b | - | 2 | - | - | - (2 MiB) |"
    assert {line.count("|") for line in lines} == {11}


def test_what_is_missing_is_told() -> None:
    told = left_out([ROW, ALONE], [LeftOut("x/w", "the memory does not suffice")])
    assert "- x/w: the memory does not suffice" in told
    assert "- x/z, baseline (a): estimated 99 s a call" in told
    assert left_out([ROW], []) == ""


def test_the_page() -> None:
    text = page("all --quick", markdown([ROW]), "", {"copying, cpu": "9 GB/s"}, ["## More\n", GPU])
    assert text.startswith("# Performance\n")
    assert "`python scripts/benchmark.py all --quick`" in text
    assert "- copying, cpu: 9 GB/s" in text
    assert text.index("x/y") < text.index("## More") < text.index("make gpu")
    assert (Path(__file__).resolve().parents[2] / "scripts/run_gpu.sh").exists()


def test_earlier_runs_are_compared(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    rows = [Row(f"x/{i}", "w", "a", "b", 4.0, 2.0, None, None) for i in range(3)]
    old.write_text(json.dumps(as_json([*rows, ALONE], [], {})))
    now = [
        Row("x/0", "w", "a", "b", 3.0, 2.0, None, None),
        Row("x/1", "w", "a", "b", 3.8, 2.0, None, None),
        Row("x/new", "w", "a", "b", 4.0, 2.0, None, None),
    ]
    assert compare([*now, ALONE], old).splitlines() == [
        "x/0: 2.00 -> 1.50 (-25%)  SLOWER",
        "x/1: 2.00 -> 1.90 (-5%)",
        "1 of 2 rows lost more than 10% of their ratio",
    ]
    assert "no row" in compare([now[2]], old)
    for text in ("no json", "{}", '{"rows": [{"key": "x"}]}', '{"rows": 3}'):
        old.write_text(text)
        with pytest.raises(InputError, match=r"--compare .*old\.json"):
            compare(now, old)


TOLD = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7focalsr12_20614scatter_kernelIfEEvPKT_' for 'sm_80'
ptxas info    : Function properties for _ZN7focalsr12_20614scatter_kernelIfEEvPKT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 48 registers, used 0 barriers, 456 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN7focalsr12_20614scatter_kernelI6__halfEEvPKT_' for 'sm_80'
    8 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 47 registers, used 1 barriers, 4096 bytes smem, 456 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN7focalsr3gpu10dot_kernelEPKf' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers
"""


def test_resources_of_kernels_are_read() -> None:
    found = resources("x_cuda.cu", "80", TOLD)
    assert found == [
        Resources("x_cuda.cu", "dot_kernel", "80", forms=1, registers=30, shared=0, spills=0),
        Resources("x_cuda.cu", "scatter_kernel", "80", forms=2, registers=48, shared=4096, spills=20),
    ]
    assert "| x_cuda.cu | scatter_kernel | sm_80 | 2 | 48 | 4096 | 20 |" in kernel_section(found)


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::addmm", "matrix products"),
        ("focalsr::window_attention", "attention kernels"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention kernels"),
        ("aten::copy_", "layout and copies"),
        ("aten::index_select", "layout and copies"),
        ("aten::native_layer_norm", "element-wise and norms"),
        ("aten::gelu", "element-wise and norms"),
        ("aten::empty_strided", OTHER),
        ("aten::view", OTHER),
    ],
)
def test_operators_are_sorted(operator: str, kind: str) -> None:
    assert kind_of(operator) == kind


def test_parts_of_the_time() -> None:
    parts = parts_of([("aten::mm", 30.0), ("aten::copy_", 10.0), ("aten::view", 5.0)], total=100.0)
    assert parts["matrix products"] == pytest.approx(0.3)
    assert parts["layout and copies"] == pytest.approx(0.1)
    assert parts[OTHER] == pytest.approx(0.6)
    assert sum(parts.values()) == pytest.approx(1)


def test_a_profile_of_a_product_and_of_waiting() -> None:
    x = torch.rand(256, 256)

    def work() -> None:
        for _ in range(20):
            torch.mm(x, x)
        time.sleep(0.01)

    found = shares("net", "plain", work, 2)
    assert set(found.parts) == set(NAMES)
    assert found.parts["matrix products"] > 0
    assert found.parts[OTHER] > 0
    assert found.parts["convolutions"] == 0
    assert "| net | plain |" in cpu_section([found], 64)
