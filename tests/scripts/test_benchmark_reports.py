"""What the benchmark writes: tables, comparisons with an earlier run, kernels, profiles."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from scripts.benchmarks.kernels import Resources, resources
from scripts.benchmarks.kernels import section as kernel_section
from scripts.benchmarks.limits import Limits
from scripts.benchmarks.measure import Row
from scripts.benchmarks.profiling import (
    NAMES,
    OTHER,
    WORKS,
    Shares,
    cpu_section,
    evaluation_work,
    kind_of,
    parts_of,
    step_work,
)
from scripts.benchmarks.profiling import shares as profiled
from scripts.benchmarks.published import families
from scripts.benchmarks.record import Record, earlier_rows
from scripts.benchmarks.report import GPU, compare, earlier_ratios, markdown, page
from utils.errors import InputError

ROW = Row("x/y", "w", "a", "b", 3.0, 2.0, 8.0, 2.0, share=0.5, limit="bandwidth")
ALONE = Row("x/z", "w", "a", "b", None, 2.0, None, 2.0, baseline_note="left out: about 99 s")
MISSING = Row("x/w", "w", "a", "b", None, None, None, None, ours_note="failed: ValueError: a|b", failed=True)


def test_the_table_has_every_row() -> None:
    lines = markdown([ROW, ALONE, MISSING]).splitlines()
    assert lines[2] == "| x/y | w | cpu | a | b | 3 | 2 | 1.50 | 50% (bandwidth) | 0.25 (2 / 8 MiB) |"
    assert lines[3] == "| x/z | w | cpu | a | b | left out: about 99 s | 2 | - | - | - (2 MiB) |"
    assert lines[4] == "| x/w | w | cpu | a | b | - | failed: ValueError: a/b | - | - | - |"
    assert {line.count("|") for line in lines} == {11}


def test_the_page() -> None:
    text = page("all --quick", {"copying, cpu": "9 GB/s"}, [ROW], 0, ["## More\n", GPU])
    assert text.startswith("# Performance\n")
    assert "\npython scripts/benchmark.py all --quick\n" in text
    assert "- copying, cpu: 9 GB/s" in text
    assert "interrupted" not in text
    assert text.index("x/y") < text.index("## More") < text.index("make gpu")
    assert (Path(__file__).resolve().parents[2] / "scripts/run_gpu.sh").exists()
    assert "3 of the rows that were asked for are not here" in page("all", {}, [ROW], 3, [])


def test_earlier_runs_are_compared(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    record = Record("", Limits(), old, None, 5)
    for row in (*(Row(f"x/{i}", "w", "a", "b", 4.0, 2.0, None, None) for i in range(3)), ALONE, MISSING):
        record.add(row)
    now = [
        Row("x/0", "w", "a", "b", 3.0, 2.0, None, None),
        Row("x/1", "w", "a", "b", 3.8, 2.0, None, None),
        Row("x/new", "w", "a", "b", 4.0, 2.0, None, None),
    ]
    assert compare([*now, ALONE, MISSING], earlier_ratios(old)).splitlines() == [
        "x/0: 2.00 -> 1.50 (-25%)  SLOWER",
        "x/1: 2.00 -> 1.90 (-5%)",
        "1 of 2 rows lost more than 10% of their ratio",
    ]
    assert "no row" in compare([now[2]], earlier_ratios(old))
    for text in ("no json", "{}", '{"rows": [{"key": "x"}]}', '{"rows": 3}'):
        old.write_text(text)
        with pytest.raises(InputError, match=r"--compare .*old\.json"):
            earlier_ratios(old)


def test_files_have_every_row_as_soon_as_it_is_measured(tmp_path: Path) -> None:
    record = Record("ops", Limits(), tmp_path / "rows.json", tmp_path / "page.md", 3)
    record.add(ROW)
    record.add(ALONE)
    held = json.loads((tmp_path / "rows.json").read_text())
    assert [row["key"] for row in held["rows"]] == ["x/y", "x/z"]
    assert held["missing"] == 1
    assert held["rows"][0]["speed"] == 1.5
    text = (tmp_path / "page.md").read_text()
    assert "1 of the rows" in text
    assert "left out: about 99 s" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.md", "rows.json"]


def test_a_run_is_gone_on_with_on_the_same_machine_alone(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    assert earlier_rows(file) == []
    record = Record("ops", Limits(), file, None, 3)
    for row in (ROW, ALONE, MISSING):
        record.add(row)
    assert earlier_rows(file) == [ROW], "what was left out has another chance"
    again = Record("ops", Limits(), file, None, 1, [ROW])
    again.add(ALONE)
    assert [row.key for row in again.rows] == ["x/y", "x/z"]
    held = json.loads(file.read_text())
    held["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(held))
    with pytest.raises(InputError, match=r"another machine \(torch 1\.0, here "):
        earlier_rows(file)
    file.write_text("[]")
    with pytest.raises(InputError, match=r"--resume: .*rows\.json"):
        earlier_rows(file)


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
        ("mkldnn::_convolution_pointwise", "convolutions"),
        ("aten::convolution_backward", "convolutions"),
        ("focalsr::gelu_depthwise", "convolutions"),
        ("focalsr::conv3x3_out", "convolutions"),
        ("focalsr::importance_gate", "element-wise and norms"),
        ("aten::addmm", "matrix products"),
        ("mkldnn::_linear_pointwise", "matrix products"),
        ("focalsr::window_attention", "attention kernels"),
        ("GeneratedBackwardFor_focalsr_focus_sparse_default", "attention kernels"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention kernels"),
        ("aten::copy_", "layout and copies"),
        ("aten::index_select", "layout and copies"),
        ("aten::native_layer_norm", "element-wise and norms"),
        ("aten::gelu", "element-wise and norms"),
        ("aten::empty_strided", OTHER),
        ("aten::view", OTHER),
        ("autograd::engine::evaluate_function: ConvolutionBackward0", OTHER),
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

    found = profiled("net", "plain", work, 0.05)
    assert set(found.parts) == set(NAMES)
    assert found.parts["matrix products"] > 0
    assert found.parts[OTHER] > 0
    assert found.parts["convolutions"] == 0


def test_profiles_of_evaluation_and_training_stand_in_tables_of_their_own() -> None:
    parts = dict.fromkeys(NAMES, 1 / len(NAMES))
    found = [Shares("net", path, 2.0, parts, work) for work in WORKS for path in ("plain", "ours")]
    text = cpu_section(found, (48, 64))
    assert "1 x 3 x 48 x 64" in text
    assert text.index("| evaluation | path |") < text.index("| training step | path |")
    assert text.count("| net | plain | 2 |") == text.count("| net | ours | 2 |") == 2


def test_every_family_has_works_to_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOCALSR_OPS", raising=False)
    configurations = dict(families())
    assert len(configurations) == 5
    for prepare in (evaluation_work, step_work):
        for plain in (True, False):
            prepare(configurations["plainusr"], (16, 24), plain=plain)()
