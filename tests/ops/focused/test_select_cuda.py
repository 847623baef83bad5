"""The CUDA kernels that select: on emulated threads against the CPU's, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops import build
from tests.ops.emulation import VALUES, aligned_rows, launch, launchers, unset
from tests.ops.focused.test_sparse_cuda import TOLERANCE, assert_close
from tests.ops.kernels import require_cpu_kernels

pytestmark = pytest.mark.build


@dataclass(frozen=True)
class Case:
    """Sizes of a layer; ``joined`` is the width of queries and keys."""

    side: int = 5
    heads: int = 2
    windows: int = 2
    joined: int = 26
    width: int = 13
    topk: int = 7
    columns: int = 2
    images: int = 0  # windows of an image, 0 for no regions


CASES = {
    "one table": Case(columns=1),
    "regions": Case(images=2),
    "one key": Case(side=3, topk=1, heads=1, joined=4, width=3, columns=1),
    "all keys but one": Case(side=4, topk=15, images=1),
    "a classical head, several segments": Case(side=9, heads=1, windows=1, joined=80, width=40, topk=33, columns=1),
    "wider than a block": Case(side=3, heads=1, windows=1, joined=1030, width=5, topk=4, columns=1),
    "no window": Case(windows=0),
}


@dataclass(frozen=True)
class Layer:
    """Operands, queries scaled; grad and grad_next are the gradients of the result and of the logits handed on."""

    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor
    regions: Tensor | None
    grad: Tensor
    grad_next: Tensor


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    """The launchers of ops/csrc/focus_select_cuda.cu, on emulated threads."""
    require_cpu_kernels("focus_select")
    return launchers("focus_select")


def make(case: Case, dtype: torch.dtype = torch.float32) -> Layer:
    generator = torch.Generator().manual_seed(0)
    tokens = case.side**2

    def random(*shape: int, to: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator).to(to)

    rows = (case.windows, case.heads, tokens)
    q, k = (random(*rows, case.joined) * case.joined**-0.25 for _ in range(2))
    v, grad = (random(*rows, case.width) for _ in range(2))
    regions = torch.randint(2, (case.images, tokens), generator=generator).byte() if case.images else None
    table = random((2 * case.side - 1) ** 2, case.columns, to=torch.float32)
    return Layer(q, k, v, table, regions, grad, random(*rows, case.topk, to=torch.float32))


def on_cpu(case: Case, x: Layer, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], list[Tensor]]:
    """The CPU's kernels: (result, logits, list, log-sums), then the gradients."""
    q, k, v, table, grad, grad_next = (y.to(dtype) for y in (x.q, x.k, x.v, x.table, x.grad, x.grad_next))
    results = torch.ops.focalsr.focus_select(q, k, v, table, x.regions, case.side, case.topk)
    operands = (grad, grad_next, q, k, v, table, x.regions, *results[2:], case.side)
    return list(results), list(torch.ops.focalsr.focus_select_backward(*operands))


def run(library: ctypes.CDLL, case: Case, x: Layer, *, with_next: bool = True) -> tuple[list[Tensor], list[Tensor]]:
    """As on_cpu, by emulated kernels."""
    q, k, v, grad = (aligned_rows(y.flatten(0, 1)) for y in (x.q, x.k, x.v, x.grad))
    q_t, k_t = (aligned_rows(y.flatten(0, 1).mT) for y in (x.q, x.k))
    tokens, rows, types = case.side**2, tuple(x.q.shape[:3]), (x.q.dtype, torch.int16)
    numbers = (case.windows * case.heads, tokens, case.topk, case.width, v.shape[-1])
    strides = (case.joined, q.shape[-1], q_t.shape[-1], max(1, case.images))
    sizes = (ctypes.c_int64 * 12)(*numbers, case.side, case.heads, case.columns, *strides)
    token_major = (case.windows, tokens, case.heads)
    result = unset(*token_major, case.width, dtype=x.q.dtype)
    lists = unset(*rows, case.topk, dtype=torch.int16)
    operands = (q, k, q_t, k_t, v, x.table, x.regions)
    forward = (q, None, None, *operands[3:], result, unset(*rows, case.topk), lists, unset(*rows))
    *_, out, logits, index, log_sum = launch(library, "forward", types, forward, sizes)
    d_q = unset(*token_major, case.joined, dtype=x.q.dtype)
    sums, slots = unset(*rows), unset(*rows, case.topk)
    scratch = (sums, sums, slots, slots, unset(library.parts(sizes)))
    upstream = (grad, x.grad_next if with_next else None, log_sum, index)
    backward = (*operands, *upstream, d_q, d_q, result, torch.full_like(x.table, math.nan), *scratch)
    workspace = unset(library.workspace(sizes), dtype=torch.int32)
    d_q, d_k, d_v, d_table = launch(library, "backward", types, (*backward, workspace), sizes)[11:15]
    by_head = [y.transpose(1, 2) for y in (out, d_q, d_k, d_v)]
    return [by_head[0], logits, index, log_sum], [*by_head[1:], d_table]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_emulated_kernels_are_those_of_the_cpu(kernels: ctypes.CDLL, case: Case) -> None:
    x = make(case)
    results, gradients = run(kernels, case, x)
    expected, expected_gradients = on_cpu(case, x)
    assert torch.equal(results[2], expected[2])
    if x.q.numel():
        assert_close(results, expected, TOLERANCE[torch.float32])
        assert_close(gradients, expected_gradients, TOLERANCE[torch.float32])
    again = run(kernels, case, x)
    assert all(torch.equal(a, b) for a, b in zip([*results, *gradients], [*again[0], *again[1]], strict=True))


def test_emulated_last_layer(kernels: ctypes.CDLL) -> None:
    case = Case()
    x = make(case)
    without = replace(x, grad_next=torch.zeros_like(x.grad_next))
    assert_close(run(kernels, case, x, with_next=False)[1], on_cpu(case, without)[1], TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", VALUES, ids=str)
def test_emulated_types(kernels: ctypes.CDLL, dtype: torch.dtype) -> None:
    case = Case(images=1)
    x = make(case, dtype)
    results, gradients = run(kernels, case, x)
    expected, expected_gradients = on_cpu(case, x)
    assert torch.equal(results[2], expected[2])
    assert_close(results, expected, TOLERANCE[dtype])
    assert_close(gradients, expected_gradients, TOLERANCE[dtype])


def chosen_by_both(library: ctypes.CDLL, logits: Tensor, topk: int, regions: Tensor | None = None) -> Tensor:
    """Lists for logits [N] that every query has: they and the logits kept are those of the CPU, bit for bit."""
    tokens = len(logits)
    side = math.isqrt(tokens)
    case = Case(side=side, heads=1, windows=1, joined=1, width=2, topk=topk, columns=1, images=int(regions is not None))
    x = replace(make(case), regions=regions, q=torch.ones(1, 1, tokens, 1), k=logits.view(1, 1, tokens, 1))
    x.table.zero_()
    results, gradients = run(library, case, x)
    expected, expected_gradients = on_cpu(case, x, torch.float32)
    assert torch.equal(results[2], expected[2])
    assert torch.equal(results[1].nan_to_num(nan=7.0), expected[1].nan_to_num(nan=7.0))
    assert (results[2].diff(dim=-1) > 0).all()
    for got, wanted in zip([*results, *gradients], [*expected, *expected_gradients], strict=True):
        # Sums of terms that cancel are as exact as the largest result.
        largest = max(1.0, float(wanted.double().nan_to_num(0, 0, 0).abs().max()))
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * largest, equal_nan=True)
    return results[2][0, 0]


@settings(max_examples=12, deadline=None)
@given(side=st.integers(2, 6), data=st.data())
def test_emulated_choice_is_that_of_the_cpu(kernels: ctypes.CDLL, side: int, data: st.DataObject) -> None:
    """Any numbers, many of them equal, and what is none among them."""
    few = st.sampled_from([0.0, -0.0, 1.5, -100.0, -1e30, 1e-40, -math.inf, math.nan])
    drawn = data.draw(st.lists(st.one_of(few, st.floats(-20, 20, width=32)), min_size=side**2, max_size=side**2))
    chosen_by_both(kernels, torch.tensor(drawn), data.draw(st.integers(1, side**2 - 1)))


def test_emulated_choice_among_equal_hidden_and_missing_numbers(kernels: ctypes.CDLL) -> None:
    for topk in (1, 20, 24):
        assert torch.equal(chosen_by_both(kernels, torch.zeros(25), topk)[3], torch.arange(topk, dtype=torch.int16))
    rising = torch.arange(25.0)
    assert chosen_by_both(kernels, rising, 1)[7].tolist() == [24]
    assert chosen_by_both(kernels, rising, 24)[7].tolist() == list(range(1, 25))
    hidden = torch.where(torch.arange(25) % 2 == 0, -math.inf, 0.0)
    assert chosen_by_both(kernels, hidden, 12)[0].tolist() == list(range(1, 25, 2))
    assert chosen_by_both(kernels, hidden, 14)[0].tolist() == [0, 1, 2, *range(3, 25, 2)]  # the first of those left
    broken = rising.clone()
    broken[24], broken[3] = math.nan, -math.nan
    assert chosen_by_both(kernels, broken, 2)[0].tolist() == [22, 23]
    assert chosen_by_both(kernels, torch.full((25,), math.nan), 3)[0].tolist() == [0, 1, 2]
    assert chosen_by_both(kernels, torch.full((25,), -math.inf), 3)[0].tolist() == [0, 1, 2]


def test_emulated_regions_come_before_numbers(kernels: ctypes.CDLL) -> None:
    """Tokens of the own region, and then those of the other, 100 lower."""
    regions = (torch.arange(25) >= 15).byte()[None]
    chosen = chosen_by_both(kernels, torch.arange(25.0), 12, regions)
    assert chosen[0].tolist() == list(range(3, 15))
    assert chosen[20].tolist() == [13, 14, *range(15, 25)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize(
    "case", [*CASES.values(), Case(side=32, heads=3, windows=4, joined=120, width=40, topk=256, columns=3, images=2)]
)
def test_gpu_is_the_cpu(case: Case, dtype: torch.dtype) -> None:
    require_cpu_kernels("focus_select")
    reason = build.cuda_extension("focus_select")
    assert reason is None, reason
    x = make(case, dtype)
    expected, expected_gradients = on_cpu(case, x)
    q, k, v, table, grad, grad_next = (y.cuda() for y in (x.q, x.k, x.v, x.table, x.grad, x.grad_next))
    regions = None if x.regions is None else x.regions.cuda()
    # Here and there two candidates are so close that rounding decides: both go on from the CPU's list.
    runs = []
    for _ in range(2):
        out, logits, index, log_sum = torch.ops.focalsr.focus_select(q, k, v, table, regions, case.side, case.topk)
        rest = (expected[2].cuda(), log_sum, case.side)
        gradients = torch.ops.focalsr.focus_select_backward(grad, grad_next, q, k, v, table, regions, *rest)
        runs.append([out, logits, index, log_sum, *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    if x.q.numel():
        same = (runs[0][2].cpu() == expected[2]).all(-1).flatten()
        assert same.float().mean() >= 0.99
        by_query = [y.cpu().flatten(0, 2)[same] for y in (*runs[0][:4], *expected)]
        assert_close(by_query[:4], by_query[4:], TOLERANCE[dtype])
        assert_close([y.cpu() for y in runs[0][4:]], expected_gradients, TOLERANCE[dtype])
