"""The backward pass by products of whole windows: against the kernels that walk lists, on any device."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from ops import build, maps
from ops.focused import dense, native
from ops.focused.table import pair_sums, position_index
from tests.ops.focused import test_select_cuda as selecting
from tests.ops.focused import test_sparse_cuda as sparse
from tests.ops.focused.test_attention import CHAINS, Chain, make, run
from tests.ops.focused.test_sparse_cuda import TOLERANCE as FROM_LISTS
from tests.ops.focused.test_sparse_cuda import assert_close
from tests.ops.kernels import require_cpu_kernels

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
TOLERANCE = {**FROM_LISTS, torch.float64: 1e-13}
anywhere = pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.float64),
        ("cpu", torch.bfloat16),
        *(pytest.param("cuda", dtype, marks=GPU) for dtype in TOLERANCE),
    ],
    ids=str,
)
pytestmark = pytest.mark.build


@pytest.fixture(autouse=True)
def needs_kernels() -> None:
    require_cpu_kernels("focus_select")
    require_cpu_kernels("focus_sparse")


def select_operands(case: selecting.Case, dtype: torch.dtype, *, with_next: bool) -> list[Any]:
    """Arguments of focus_select_backward, in the type of queries and of logits."""
    x = selecting.make(case, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    operands = [y.double() for y in (x.q, x.k, x.v, x.table)]
    _, _, index, log_sum = torch.ops.focalsr.focus_select(*operands, x.regions, case.side, case.topk)
    grad_next = x.grad_next.to(wide) if with_next else None
    return [x.grad, grad_next, x.q, x.k, x.v, x.table.to(wide), x.regions, index, log_sum.to(wide), case.side]


def sparse_operands(case: sparse.Case, dtype: torch.dtype, *, with_next: bool) -> list[Any]:
    """Arguments of focus_sparse_backward."""
    x = sparse.make(case, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    operands = [y.double() for y in (x.q, x.k, x.v, x.table, x.logits)]
    _, following, kept, log_sum = torch.ops.focalsr.focus_sparse(
        *operands, x.index, case.side, case.after, sparse.SCALE
    )
    selects = case.after < case.length
    return [
        x.grad, x.grad_next.to(wide) if with_next else None, x.q, x.k, x.v, x.table.to(wide),
        (x.logits if selects else following).to(wide), x.index, kept if selects else None, log_sum.to(wide),
        case.side, sparse.SCALE,
    ]  # fmt: skip


def compare(name: str, operands: list[Any], device: str, dtype: torch.dtype) -> None:
    """The operator NAME_dense on a device, in so many windows at a time, against NAME on the CPU in float64."""
    exact = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in operands]
    expected = list(getattr(torch.ops.focalsr, name)(*exact))
    here = [x.to(device) if isinstance(x, Tensor) else x for x in operands]
    pairs = operands[2].shape[2] ** 2
    operator = getattr(torch.ops.focalsr, f"{name}_dense")
    for windows in (1, 100):
        with mock.patch.object(maps, "MAP_BYTES", 4 * pairs * windows):
            got, again = ([x.cpu() for x in operator(*here)] for _ in range(2))
        assert all(torch.equal(x, y) for x, y in zip(got, again, strict=True))
        assert all(x.dtype == (operands[0].dtype if i < 3 else operands[5].dtype) for i, x in enumerate(got))
        if operands[2].numel():
            assert_close(got, expected, TOLERANCE[dtype])


@anywhere
@pytest.mark.parametrize("case", selecting.CASES.values(), ids=selecting.CASES)
def test_layers_that_select(case: selecting.Case, dtype: torch.dtype, device: str) -> None:
    compare("focus_select_backward", select_operands(case, dtype, with_next=True), device, dtype)


@anywhere
@pytest.mark.parametrize("case", sparse.CASES.values(), ids=sparse.CASES)
def test_layers_with_lists(case: sparse.Case, dtype: torch.dtype, device: str) -> None:
    compare("focus_sparse_backward", sparse_operands(case, dtype, with_next=True), device, dtype)


@anywhere
def test_last_layers(dtype: torch.dtype, device: str) -> None:
    """Nobody asks for the logits that they hand on."""
    operands = select_operands(selecting.CASES["regions"], dtype, with_next=False)
    compare("focus_select_backward", operands, device, dtype)
    for case in (sparse.CASES["selects"], sparse.CASES["keeps all"]):
        compare("focus_sparse_backward", sparse_operands(case, dtype, with_next=False), device, dtype)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_whole_chains_have_the_same_gradients(chain: Chain) -> None:
    expected = run(chain, make(chain), "composed")
    with mock.patch.object(native, "pays", return_value=True):
        got = run(chain, make(chain), "native")
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_autocast_does_not_reach_the_products() -> None:
    operands = sparse_operands(sparse.CASES["selects"], torch.float32, with_next=True)
    expected = torch.ops.focalsr.focus_sparse_backward_dense(*operands)
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.ops.focalsr.focus_sparse_backward_dense(*operands)
    assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))


def test_opcheck() -> None:
    operands = select_operands(selecting.CASES["regions"], torch.bfloat16, with_next=True)
    torch.library.opcheck(torch.ops.focalsr.focus_select_backward_dense, tuple(operands))
    operands = sparse_operands(sparse.CASES["selects"], torch.bfloat16, with_next=False)
    torch.library.opcheck(torch.ops.focalsr.focus_sparse_backward_dense, tuple(operands))


def test_long_lists_on_a_gpu_are_the_ones_for_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "cuda_extension", lambda part: None)
    with torch._subclasses.FakeTensorMode():
        q, small = torch.empty(16, 3, 1024, 40, device="cuda"), torch.empty(4, 3, 64, 40, device="cuda")
        long, short = (torch.empty(16, 3, 1024, length, device="cuda") for length in (512, 256))
    assert dense.pays(q, long, sees_all=False)
    assert not dense.pays(q, short, sees_all=False)
    assert dense.pays(q, short, sees_all=True)
    assert not dense.pays(small, long, sees_all=True)
    assert not dense.pays(q.to("meta"), long, sees_all=True)
    monkeypatch.setattr(build, "cuda_extension", lambda part: "there are none")
    assert not dense.pays(q, long, sees_all=True)


@pytest.mark.parametrize(("window", "heads"), [(1, 2), (2, 1), (5, 3)])
def test_gradients_of_a_bias_are_summed_by_distance(window: int, heads: int) -> None:
    pairs = torch.randn(heads, window**2, window**2, dtype=torch.float64)
    index = position_index(window, pairs.device).flatten()
    expected = torch.zeros((2 * window - 1) ** 2, heads, dtype=torch.float64)
    torch.testing.assert_close(pair_sums(pairs, window), expected.index_add_(0, index, pairs.flatten(1).t()))
