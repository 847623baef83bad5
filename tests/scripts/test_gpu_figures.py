"""The figures of a GPU: all that are asked for exist, are measured, survive an interruption, and make the page."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from config.variants import PLAINUSR
from scripts.benchmarks.gpu import cases, measure
from scripts.benchmarks.gpu.figures import figures
from scripts.benchmarks.gpu.page import page, write_page
from scripts.benchmarks.gpu.products import fused, gathered, parts_of
from scripts.benchmarks.gpu.results import FILE, Result, Results, read_results
from scripts.benchmarks.gpu.tables import AUTO, TABLES, Figure, Published
from scripts.benchmarks.gpu.timing import Protocol, measured
from scripts.benchmarks.limits import Limits
from scripts.benchmarks.measure import Work
from scripts.benchmarks.operators import Attention, Sparse
from utils.errors import InputError

ONCE = Protocol(warm_ups=0, calls=1, seconds=0.1)
ASKED = (  # figures that are published, or promised
    "pft_step/pft_x4/references_float32", "pft_step/pft_x4/auto_float32",
    "pft_image/pft_x4_320x180/auto_float32", "pft_image/pft_x2_640x360/auto_float32",
    *(
        f"esc/{name}_x{scale}_{size}/auto_float32"
        for name in ("esc", "esc_light", "esc_fp")
        for scale, size in ((2, "640x360"), (3, "426x240"), (4, "320x180"))
    ),
    *(
        f"windows/{name}_x4_320x180/auto_{mode}"
        for name in ("hat_s", "hat", "hat_l", "rgt_s", "rgt")
        for mode in ("float32", "tf32", "bf16")
    ),
    *(f"compiled/{name}_x4_320x180/auto_bf16_compiled" for name in ("hat_s", "hat", "hat_l", "rgt_s", "rgt")),
    *(f"plainusr/{name}_x4_320x180/auto_float32" for name in PLAINUSR),
    *(f"step/{name}_x4/{way}" for name in ("hat", "esc") for way in ("references_float32", "auto_bf16_compiled")),
    *(
        f"operators/{name}_{direction}/{way}"
        for name in ("attention_hat", "attention_esc", "focus_selects", "focus_k64", "smm_qmk_k256", "smm_amv_k64")
        for direction in ("forward", "backward", "forward_bf16", "backward_bf16")
        for way in ("reference", "auto")
    ),
    "operators/attention_esc_backward/sdpa", "operators/attention_hat_forward/flexattention",
    "operators/smm_qmk_k256_forward/gather", "operators/gelu_depthwise_k7_forward/auto",
    "operators/linear_gelu_backward/auto",
    "loop/iterations/bare", "loop/iterations/train.py", "loop/pack/batch", "loop/validation/scored",
)  # fmt: skip


@functools.cache
def known(*, tiny: bool) -> dict[str, Figure]:
    found = figures(tiny=tiny)
    assert len({one.key for one in found}) == len(found)
    return {one.key: one for one in found}


def test_every_figure_that_is_asked_for_exists() -> None:
    assert not [key for key in ASKED if key not in known(tiny=False)]
    assert {one.table for one in known(tiny=False).values()} == set(TABLES)
    papers = {key: one for key, one in known(tiny=False).items() if one.published is not None}
    assert len(papers) == 2 * 9
    assert all(fnmatchcase(key, "esc/*") for key in papers)
    assert all((one.protocol.warm_ups, one.protocol.calls) == (100, 100) for one in papers.values())


def test_works_that_are_worth_most_come_first_and_compiling_last() -> None:
    keys = list(known(tiny=False))
    assert keys[0].startswith("pft_step/")
    first = next(i for i, key in enumerate(keys) if "compiled" in key)
    assert not [key for key in keys[first:] if "compiled" not in key and "flex" not in key]


TINY = [
    next(key for key in known(tiny=True) if fnmatchcase(key, pattern))
    for pattern in (
        "pft_step/*/auto_float32", "pft_image/*x2*float32", "esc/esc_fp_x3*",
        "step/esc*/references*", "step/esc_light*/auto_bf16", "operators/attention_hat*backward/sdpa",
        "operators/smm_amv*forward/gather", "operators/focus_k64*backward/auto", "windows/rgt_s*tf32",
        "plainusr/*u*bf16", "loop/iterations/bare", "loop/pack/batch", "loop/validation/network",
        "loop/validation/scored",
    )
]  # fmt: skip


LONG = ("step/*", "loop/validation/*")
"""Those that take several seconds."""


@pytest.mark.build
@pytest.mark.parametrize(
    "key",
    [pytest.param(key, marks=[pytest.mark.long] if any(fnmatchcase(key, one) for one in LONG) else []) for key in TINY],
)
def test_every_kind_of_work_runs(key: str) -> None:
    assert measured(known(tiny=True)[key].prepare, ONCE, "cpu").ms > 0


def test_other_ways_of_the_sparse_products_are_the_same_products() -> None:
    assert parts_of("ops/smm_qmk_k256_backward_bf16") == ("smm_qmk_k256", "backward", torch.bfloat16)
    assert parts_of("ops/attention_hat_overlap_forward") == ("attention_hat_overlap", "forward", torch.float32)
    for product, shape in (("qmk", (2, 8, 3)), ("amv", (2, 8, 4))):
        out = gathered(Sparse(2, 8, 4, 3), product, "forward", torch.float32)()
        assert isinstance(out, Tensor)
        assert out.shape == shape
        grads = gathered(Sparse(2, 8, 4, 3), product, "backward", torch.float32)()
        assert isinstance(grads, tuple)
        assert all(bool(grad.abs().sum() > 0) for grad in grads)
    out = fused(Attention(2, 3, 4, 5, 6), "forward", torch.float32)()
    assert isinstance(out, Tensor)
    assert out.shape == (2, 3, 4, 6)


def test_calls_are_counted_and_stop_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((3.0, 0.5, 0.1, 0.3, 0.2))
    monkeypatch.setattr("scripts.benchmarks.gpu.timing.wall_seconds", lambda work, several: (work(), next(seconds))[1])
    calls: list[int] = []
    timing = measured(lambda: lambda: calls.append(1), Protocol(warm_ups=2, calls=3, seconds=1e9), "cpu")
    assert (timing.ms, timing.low, timing.high, timing.calls, timing.warm_ups) == (200, 100, 300, 3, 2)
    assert len(calls) == 6, "one call compiles"
    assert timing.mib is None
    monkeypatch.setattr("scripts.benchmarks.gpu.timing.wall_seconds", lambda work, several: 1.0)
    timing = measured(lambda: lambda: None, Protocol(warm_ups=50, calls=50, seconds=0), "cpu")
    assert (timing.calls, timing.warm_ups) == (1, 1)
    several: list[int] = []

    def short(work: Work, count: int) -> float:
        several.append(count)
        return 0.01

    monkeypatch.setattr("scripts.benchmarks.gpu.timing.wall_seconds", short)
    measured(lambda: lambda: None, Protocol(warm_ups=0, calls=2, window=0.05), "cpu")
    assert several == [1, 5, 5]


def fake(key: str, prepare: object = None, **more: object) -> Figure:
    """A figure of a work that takes no time."""
    made = prepare if callable(prepare) else lambda: lambda: None
    figure = Figure(key, key.partition("/")[0], "a work", AUTO, made, ONCE)
    return dataclasses.replace(figure, **more)  # type: ignore[arg-type]


def ran(monkeypatch: pytest.MonkeyPatch, todo: Sequence[Figure], *argv: str) -> int:
    monkeypatch.setattr(measure, "figures", lambda tiny: list(todo))
    return measure.main([*argv, "--device", "cpu", "--tiny"])


def boom() -> Work:
    raise RuntimeError("illegal | access\nmore")


def test_a_figure_that_fails_stops_no_other_and_an_interrupted_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ("--output", str(tmp_path))
    assert ran(monkeypatch, [fake("esc/a"), fake("esc/b", boom), fake("esc/c")], *output) == 1
    results = read_results(tmp_path / FILE)
    assert [row.key for row in results.rows] == ["esc/a", "esc/b", "esc/c"]
    assert (results.rows[1].note, results.rows[1].failed) == ("failed: RuntimeError: illegal | access", True)
    assert (results.tiny, results.missing, results.machine["gpu"]) == (True, 0, "none")
    limit = {"copying, cuda": "1 GB/s"}
    dataclasses.replace(results, machine={**results.machine, **limit}).write(tmp_path / FILE)
    again: list[str] = []

    def counting(key: str) -> Figure:
        def prepare() -> Work:
            again.append(key)
            return lambda: None

        return fake(key, prepare)

    counted = [counting(key) for key in ("esc/a", "esc/b", "esc/c")]
    assert ran(monkeypatch, counted, *output, "--resume") == 0
    assert again == ["esc/b"]
    assert limit.items() <= read_results(tmp_path / FILE).machine.items()
    assert ran(monkeypatch, counted, *output, "--only", "esc/c") == 0
    assert [row.key for row in read_results(tmp_path / FILE).rows] == ["esc/c"]
    with pytest.raises(InputError, match=r"no figure fits --only x/\*"):
        ran(monkeypatch, counted, *output, "--only", "x/*")
    capsys.readouterr()
    assert ran(monkeypatch, counted, *output, "--list") == 0
    assert capsys.readouterr().out == "esc/a\nesc/b\nesc/c\n"


def test_results_of_another_machine_are_not_gone_on_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Results({"gpu": "X1", "torch": "2", "cuda": "13"}, True, 0, (Result("esc/a", 1.0),)).write(tmp_path / FILE)
    with pytest.raises(InputError, match="is from another GPU or another torch"):
        ran(monkeypatch, [fake("esc/a")], "--output", str(tmp_path), "--resume")
    (tmp_path / FILE).write_text("[]")
    with pytest.raises(InputError, match="expected the figures of a run"):
        read_results(tmp_path / FILE)
    (tmp_path / FILE).unlink()
    with pytest.raises(InputError, match="there are no figures yet; stage 3"):
        read_results(tmp_path / FILE)


def test_where_an_error_costs_the_gpu_a_new_process_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class ReplacedError(Exception):
        pass

    def execv(program: str, argv: list[str]) -> None:
        assert argv[:3] == [program, "-m", "scripts.benchmarks.gpu.measure"]
        assert "--restarted" in argv
        raise ReplacedError

    monkeypatch.setattr(measure, "usable", lambda device: False)
    monkeypatch.setattr(os, "execv", execv)
    todo = [fake("esc/a"), fake("esc/b", boom), fake("esc/c")]
    with pytest.raises(ReplacedError):
        ran(monkeypatch, todo, "--output", str(tmp_path))
    assert ran(monkeypatch, todo, "--output", str(tmp_path), "--restarted") == 1, "b has failed"
    assert [row.key for row in read_results(tmp_path / FILE).rows] == ["esc/a", "esc/b", "esc/c"]


def test_what_does_not_fit_or_cannot_be_done_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Work:
        raise torch.OutOfMemoryError("no")

    assert measure.result_of(fake("esc/a", full), "cpu", Limits(True)).note == "the memory does not suffice"
    monkeypatch.setattr(measure, "missing", lambda needs, device: "bfloat16 does not work here")
    assert measure.result_of(fake("esc/a"), "cpu", Limits(True)).note == "left out: bfloat16 does not work here"


PAGE = """\
## ESC: 1280 x 720 pixels

{text}

| work | way | ms | fastest - slowest | calls | speed-up | MiB | memory | share of the limit | paper: ms, MB |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| a work | references | 10 | 9 - 12 | 100 | - | 800 | - | - | - |
| a work | auto | 4 | 3 - 5 | 100 | 2.50 | 200 | 0.25 | 50% (bandwidth) | 20, 300 |
| another | auto | failed: a/b | - | - | - | - | - | - | 7 |
"""


def test_the_page(tmp_path: Path) -> None:
    lines = [
        fake("esc/1", way="references"),
        fake("esc/3", work="another", published=Published(7)),
        fake("esc/2", published=Published(20, 300)),
        fake("esc/4"),
    ]
    rows = (
        Result("esc/1", 10, 9, 12, 800, 100, 100),
        Result("esc/2", 4, 3, 5, 200, 100, 100, share=0.5, limit="bandwidth"),
        Result("esc/3", note="failed: a|b", failed=True),
    )
    results = Results({"gpu": "a card", "date": "2030-01-02"}, False, 1, rows)
    text = page(results, lines, ["## More\n"])
    assert text.startswith("# Performance on a GPU\n")
    assert "- gpu: a card\n- date: 2030-01-02\n" in text
    assert "1 figures are missing" in text
    assert PAGE.format(text=TABLES["esc"].text) in text
    assert text.endswith("## More\n")
    assert text.count("\n## ") == 2, "tables without lines are left out"
    real = Results(results.machine, False, 0, (Result("esc/esc_x4_320x180/auto_float32", 1.0, 1.0, 1.0, 1.0, 1, 1),))
    write_page(real, [], tmp_path / "page.md")
    assert "| esc x4, 1 x 3 x 180 x 320 | auto, float32 | 1 |" in (tmp_path / "page.md").read_text()
    with (tmp_path / "page.md").open("a") as page_file:
        page_file.write("what people add\n")
    write_page(dataclasses.replace(real, machine={"gpu": "another card"}), [], tmp_path / "page.md")
    rewritten = (tmp_path / "page.md").read_text()
    assert rewritten.endswith("what people add\n")
    assert "another card" in rewritten
    assert "a card" not in rewritten.replace("another card", "")
    for wrong, reason in ((dataclasses.replace(real, tiny=True), "dry run"), (Results({}, False, 0, ()), "no figures")):
        with pytest.raises(InputError, match=reason):
            write_page(wrong, [], tmp_path / "other.md")
    assert not (tmp_path / "other.md").exists()


@pytest.mark.build
def test_cases_of_the_kernels_are_right_and_a_wrong_one_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOCALSR_OPS", "auto")  # the program sets it
    assert cases.main(["--device", "cpu"]) == 0
    [first, *_] = list(cases.cases())
    for wrong in (1.001, float("nan")):

        def compute(inputs: Sequence[Tensor], backend: str, wrong: float = wrong) -> list[Tensor]:
            factor = 1 if backend == "reference" else wrong
            return [factor * x for x in first.compute(inputs, backend)]

        assert not cases.right(first._replace(compute=compute), "cpu")
    assert "expected at most" in capsys.readouterr().out


@pytest.mark.build
def test_cases_meet_the_conditions_of_each_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that sizes decide about, in ops/csrc/cuda_near.h, cuda_scatter.h and maps_cuda.cu."""
    monkeypatch.setenv("FOCALSR_OPS", "auto")
    called: dict[str, list[tuple[Any, ...]]] = {}

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.setdefault(str(func).removesuffix(".default"), []).append(args)
            return func(*args, **(kwargs or {}))

    with Noting():  # type: ignore[no-untyped-call]
        for case in cases.cases():
            case.compute(case.inputs, "auto")

    def near(lists: Tensor) -> bool:
        return lists.dtype == torch.int16 and 2 * lists.shape[:-2].numel() >= 132

    # The places of lists, and of the rows that they list.
    for name, lists, rows in (
        ("smm_qmk", 2, None),
        ("smm_amv", 2, None),
        ("smm_amv_backward", 3, 2),
        ("smm_qmk_backward", 3, None),
        ("focus_sparse", 5, None),
        ("focus_sparse_backward", 7, 3),
    ):
        calls = called[f"focalsr.{name}"]
        assert {near(args[lists]) for args in calls} == {True, False}
        if rows is not None:  # short lists, and long ones
            assert {16 * args[lists].shape[-1] < args[rows].shape[-2] for args in calls} == {True, False}
    selects = [args[8] is not None for args in called["focalsr.focus_sparse_backward"] if near(args[7])]
    assert set(selects) == {True, False}
    assert {args[8] is not None for args in called["focalsr.focus_sparse_backward_dense"]} == {True, False}
    assert called.keys() >= {"focalsr.smm_qmk_backward_dense", "focalsr.smm_amv_backward_dense"}


def test_the_kernels_are_known_by_name() -> None:
    names = cases.kernels()
    assert {"dot_kernel", "sum_kernel", "key_sum_kernel", "select_kernel", "query_pass_kernel"} <= names
    assert len(names) >= 15
