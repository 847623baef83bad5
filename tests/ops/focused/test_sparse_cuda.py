"""The CUDA kernels of focused attention: on emulated threads against the CPU's, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ops import build
from tests.ops.emulation import ENTRIES, SHARED, VALUES, aligned_rows, launch, launchers, unset
from tests.ops.kernels import require_cpu_kernels

pytestmark = pytest.mark.build
# Relative to the largest value; half precision rounds results once, from the same inputs.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


@dataclass(frozen=True)
class Case:
    """Sizes of a layer whose queries have lists."""

    side: int = 5
    heads: int = 2
    windows: int = 2
    width: int = 13
    length: int = 12
    after: int = 5
    columns: int = 2


CASES = {
    "selects": Case(),
    "keeps all": Case(after=12),
    "classical head": Case(side=7, heads=1, windows=1, width=40, length=47, after=33, columns=1),
    "one key": Case(side=3, length=6, after=1, columns=1, heads=3, width=8),
    "all keys": Case(side=4, length=16, after=16, width=26),
    "short lists": Case(side=10, heads=1, windows=1, length=6, after=6, columns=1),
    "short lists that select": Case(side=10, heads=1, windows=1, length=6, after=4, columns=1),
    "several segments": Case(side=8, heads=1, windows=1, length=40, after=36, columns=1),
}
SCALE = 0.3


@dataclass(frozen=True)
class Layer:
    """Operands; grad and grad_next are the gradients of the result and of the logits handed on."""

    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor
    logits: Tensor
    index: Tensor
    grad: Tensor
    grad_next: Tensor


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    """The launchers of ops/csrc/focus_sparse_cuda.cu, on emulated threads; rows are far."""
    require_cpu_kernels("focus_sparse")
    return launchers("focus")


@pytest.fixture
def near_kernels(kernels: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """The same with rows in shared memory."""
    kernels.set_shared_limit(SHARED)
    yield kernels
    kernels.set_shared_limit(0)


def make(case: Case, dtype: torch.dtype, index_type: torch.dtype = torch.int16) -> Layer:
    generator = torch.Generator().manual_seed(0)
    tokens = case.side**2

    def random(*shape: int, to: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator).to(to)

    rows = (case.windows, case.heads, tokens)
    q, k, v, grad = (random(*rows, case.width) for _ in range(4))
    index = torch.rand(*rows, tokens, generator=generator).topk(case.length).indices.sort().values.to(index_type)
    table = random((2 * case.side - 1) ** 2, case.columns, to=torch.float32)
    logits = random(*rows, case.length, to=torch.float32)
    return Layer(q, k, v, table, logits, index, grad, random(*rows, case.after, to=torch.float32))


def on_cpu(case: Case, x: Layer, with_next: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The CPU's kernels in float64: (result, logits, list, log-sums), then the gradients."""
    q, k, v, table, logits, grad = (y.double() for y in (x.q, x.k, x.v, x.table, x.logits, x.grad))
    operator, gradient = torch.ops.focalsr.focus_sparse, torch.ops.focalsr.focus_sparse_backward
    out, following, kept, log_sum = operator(q, k, v, table, logits, x.index, case.side, case.after, SCALE)
    selects = case.after < case.length
    carried = logits if selects else following
    grad_next = x.grad_next.double() if with_next else None
    gradients = gradient(
        grad, grad_next, q, k, v, table, carried, x.index, kept if selects else None, log_sum, case.side, SCALE
    )
    return [out, following, kept if selects else x.index, log_sum], list(gradients)


def sizes_of(case: Case, width: int) -> ctypes.Array[ctypes.c_int64]:
    tokens = case.side**2
    numbers = (case.windows * case.heads, tokens, tokens, case.length, case.width, width)
    return (ctypes.c_int64 * 10)(*numbers, case.after, case.side, case.heads, case.columns)


def run(library: ctypes.CDLL, case: Case, x: Layer, with_next: bool) -> tuple[list[Tensor], list[Tensor]]:
    """As on_cpu, by emulated kernels."""
    rows = tuple(x.index.shape[:3])
    selects = case.after < case.length
    q, k, v, grad = (aligned_rows(y) for y in (x.q, x.k, x.v, x.grad))
    sizes, scale = sizes_of(case, q.shape[-1]), ctypes.c_float(SCALE)
    types = (x.q.dtype, x.index.dtype)
    result = unset(case.windows, case.side**2, case.heads, case.width, dtype=x.q.dtype)  # token-major
    short = unset(*rows, case.after)
    new_list = unset(*rows, case.after if selects else 0, dtype=x.index.dtype)
    forward = (q, k, v, x.table, x.logits, x.index, result, short, new_list, unset(*rows))
    *_, out, following, kept, log_sum = launch(library, "forward", types, forward, sizes, scale)
    scratch = (short, unset(library.parts(sizes)), unset(library.workspace(sizes), dtype=torch.int32))
    given = (
        grad, q, k, v, x.grad_next if with_next else None, x.table, x.logits if selects else following, log_sum,
        x.index, kept if selects else None,
    )  # fmt: skip
    results = (result, result, result, torch.full_like(x.table, float("nan")), unset(*x.logits.shape))
    buffers = (*given, *results, *scratch)
    d_q, d_k, d_v, d_table, d_logits = launch(library, "backward", types, buffers, sizes, scale)[10:15]
    by_head = [y.transpose(1, 2) for y in (out, d_q, d_k, d_v)]
    return [by_head[0], following, kept if selects else x.index, log_sum], [*by_head[1:], d_table, d_logits]


def assert_close(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        largest = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours.to(theirs), theirs, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("with_next", [False, True], ids=["last layer", "another follows"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_emulated_kernels_are_those_of_the_cpu(kernels: ctypes.CDLL, case: Case, with_next: bool) -> None:
    x = make(case, torch.float32)
    results, gradients = run(kernels, case, x, with_next)
    expected, expected_gradients = on_cpu(case, x, with_next)
    assert torch.equal(results[2], expected[2])
    assert_close(results, expected, TOLERANCE[torch.float32])
    assert_close(gradients, expected_gradients, TOLERANCE[torch.float32])
    again = run(kernels, case, x, with_next)
    assert all(torch.equal(a, b) for a, b in zip([*results, *gradients], [*again[0], *again[1]], strict=True))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((case, torch.float32) for case in CASES.values()), (Case(), torch.bfloat16)],
    ids=[*CASES, "bfloat16"],
)
def test_emulated_near_rows_change_no_bit_but_of_the_result(
    near_kernels: ctypes.CDLL, case: Case, dtype: torch.dtype
) -> None:
    x = make(case, dtype)
    results, gradients = run(near_kernels, case, x, with_next=True)
    near_kernels.set_shared_limit(0)
    far, far_gradients = run(near_kernels, case, x, with_next=True)
    assert_close(results[:1], far[:1], TOLERANCE[dtype])  # its weights come from logits that were rounded once more
    assert all(torch.equal(a, b) for a, b in zip([*results[1:], *gradients], [*far[1:], *far_gradients], strict=True))


@pytest.mark.parametrize("index_type", ENTRIES, ids=str)
@pytest.mark.parametrize("dtype", VALUES, ids=str)
def test_emulated_types(kernels: ctypes.CDLL, dtype: torch.dtype, index_type: torch.dtype) -> None:
    case = Case()
    x = make(case, dtype, index_type)
    results, gradients = run(kernels, case, x, with_next=True)
    expected, expected_gradients = on_cpu(case, x, with_next=True)
    assert torch.equal(results[2], expected[2])
    assert_close(results, expected, TOLERANCE[dtype])
    assert_close(gradients, expected_gradients, TOLERANCE[dtype])


def test_emulated_ties_go_to_the_first_keys(kernels: ctypes.CDLL) -> None:
    case = Case(length=40, after=35, side=7)
    x = make(case, torch.float32)
    x.q.zero_()
    x.table.zero_()
    x.logits.copy_((torch.arange(40) % 3).float())  # 13 of the largest, 13 of the next, 14 of the smallest
    kept = run(kernels, case, x, with_next=False)[0][2]
    wanted = torch.tensor([j for j in range(40) if j % 3 > 0 or j // 3 < 9])
    assert torch.equal(kept, x.index[..., wanted])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize(
    "case", [*CASES.values(), Case(side=32, heads=3, windows=8, width=40, length=48, after=33, columns=3)]
)
def test_gpu_is_the_cpu(case: Case, dtype: torch.dtype) -> None:
    require_cpu_kernels("focus_sparse")
    reason = build.cuda_extension("focus_sparse")
    assert reason is None, reason
    x = make(case, dtype)
    expected, expected_gradients = on_cpu(case, x, with_next=True)
    g = Layer(**{name: y.cuda() for name, y in vars(x).items()})
    leaves = [y.requires_grad_() for y in (g.q, g.k, g.v, g.table, g.logits)]
    operator = torch.ops.focalsr.focus_sparse
    runs = []
    for _ in range(2):
        out, following, kept, log_sum = operator(*leaves, g.index, case.side, case.after, SCALE)
        gradients = torch.autograd.grad((out, following), leaves, (g.grad, g.grad_next))
        runs.append([out, following, kept if case.after < case.length else g.index, log_sum, *gradients])
    assert_close([y.cpu() for y in runs[0]], [*expected, *expected_gradients], TOLERANCE[dtype])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
