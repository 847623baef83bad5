"""The dense bias of a table with an index, and the gradient of the table."""

from __future__ import annotations

import gc
import re

import pytest
import torch
from torch import Tensor

from ops import RelativeBias
from ops.window import relative_bias
from ops.window.relative_bias import Runs, runs_of, scatter_sum, sorted_sum
from utils.errors import InputError


def swin_index(height: int, width: int) -> Tensor:
    """Relative positions of the tokens of a window, query minus key: [N, N], 0 .. (2 height - 1)(2 width - 1) - 1."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.flatten(), x.flatten()
    rows = y[:, None] - y + height - 1
    return rows * (2 * width - 1) + x[:, None] - x + width - 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_the_dense_bias_is_the_table_at_the_index(dtype: torch.dtype, index_dtype: torch.dtype) -> None:
    index = swin_index(3, 5)
    table = torch.randn(45, 4).to(dtype)
    dense = RelativeBias(table, index.to(index_dtype)).dense()
    assert dense.dtype == dtype
    assert torch.equal(dense, table[index].permute(2, 0, 1))
    assert dense.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_gradient_of_the_table(dtype: torch.dtype) -> None:
    index = swin_index(4, 6)[:, ::2]  # fewer keys than queries
    table = torch.randn(77, 3).to(dtype).requires_grad_()
    weight = torch.randn(3, *index.shape).to(dtype)
    (got,) = torch.autograd.grad(RelativeBias(table, index).dense(), table, weight)
    exact = table.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(exact[index].permute(2, 0, 1), exact, weight.double())
    assert got.dtype == dtype
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(got.double(), expected, atol=tolerance, rtol=tolerance)


def test_gradient_is_the_same_each_time() -> None:
    index = swin_index(8, 8)
    values = torch.randn(4, index.numel())
    sums = [scatter_sum(values, index.flatten(), 225) for _ in range(3)]
    assert all(torch.equal(sums[0], other) for other in sums)


def test_the_sum_for_cuda_computes_the_same_on_the_cpu() -> None:
    index = swin_index(4, 4).flatten() + 2  # rows that no pair takes at both ends
    values = torch.randn(3, index.numel(), dtype=torch.float64)
    torch.testing.assert_close(sorted_sum(values, runs_of(index, 60)), scatter_sum(values, index, 60))


def test_pairs_are_sorted_once_and_again_where_the_index_was_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    sorts: list[int] = []

    def counted(index: Tensor, rows: int) -> Runs:
        sorts.append(rows)
        return runs_of(index, rows)

    monkeypatch.setattr(relative_bias, "runs_of", counted)
    index, other = swin_index(3, 3), swin_index(2, 2)
    values = torch.randn(2, index.numel(), dtype=torch.float64)
    for _ in range(2):
        found = sorted_sum(values, relative_bias._runs(index, 25))
        torch.testing.assert_close(found, scatter_sum(values, index.flatten(), 25))
        relative_bias._runs(other, 9)
    assert sorts == [25, 9]
    index[0, :3] = 24
    torch.testing.assert_close(
        sorted_sum(values, relative_bias._runs(index, 25)), scatter_sum(values, index.flatten(), 25)
    )
    relative_bias._runs(index, 30)
    assert sorts == [25, 9, 25, 30]
    before = len(relative_bias._sorted)
    del other
    gc.collect()
    assert len(relative_bias._sorted) == before - 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradient_is_the_same_each_time_on_cuda() -> None:
    index = swin_index(16, 16).cuda()
    table = torch.randn(961, 6, device="cuda", requires_grad=True)
    weight = torch.randn(6, 256, 256, device="cuda")
    first, second = (torch.autograd.grad(RelativeBias(table, index).dense(), table, weight)[0] for _ in range(2))
    assert torch.equal(first, second)
    expected = scatter_sum(weight.cpu().flatten(1), index.cpu().flatten(), 961)
    torch.testing.assert_close(first.cpu(), expected, atol=1e-4, rtol=1e-4)


def test_gradcheck_and_opcheck() -> None:
    index = swin_index(2, 3)
    table = torch.randn(15, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: RelativeBias(x, index).dense(), table)
    assert torch.autograd.gradgradcheck(lambda x: RelativeBias(x, index).dense(), table)
    torch.library.opcheck(torch.ops.focalsr.relative_bias, (table, index))
    gradient = torch.randn(2, 6, 6, requires_grad=True)
    torch.library.opcheck(torch.ops.focalsr.relative_bias_backward, (gradient, index, 15))


def test_a_row_that_does_not_exist_is_named() -> None:
    index = swin_index(2, 2)
    with pytest.raises(InputError, match=re.escape("the index runs from -1 to 7, but the table has rows 0 to 8; take")):
        RelativeBias(torch.zeros(9, 2), index - 1).dense()
    with pytest.raises(InputError, match=re.escape("the index runs from 0 to 8, but the table has rows 0 to 4")):
        RelativeBias(torch.zeros(5, 2), index).dense()


def test_what_does_not_fit_is_named() -> None:
    index = swin_index(2, 2)
    with pytest.raises(InputError, match=re.escape("the table is [9] of torch.float32, expected floating-point [T, h")):
        RelativeBias(torch.zeros(9), index).dense()
    with pytest.raises(InputError, match=re.escape("the index is [4, 4] of torch.float32, expected int32 or int64")):
        RelativeBias(torch.zeros(9, 2), index.float()).dense()
