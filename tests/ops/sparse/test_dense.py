"""The backward pass of the sparse products by products of whole batch items, on any device."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from ops import maps
from ops.sparse import native
from tests.ops.kernels import require_cpu_kernels
from tests.ops.sparse.test_smm import SIZES, TOLERANCE, Sizes, make, operators, run

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
pytestmark = pytest.mark.build


@pytest.fixture(autouse=True)
def needs_kernels() -> None:
    require_cpu_kernels("smm")


@operators
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_gradients_are_those_of_lists(name: str, sizes: Sizes) -> None:
    inputs = make(name, sizes)
    expected = run(name, inputs, "reference")
    few = 8 * sizes.N * sizes.M  # two batch items at a time
    with mock.patch.object(native, "pays", return_value=True), mock.patch.object(maps, "MAP_BYTES", few):
        got = run(name, inputs, "native")
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@operators
def test_gradients_that_nobody_wants_are_left_out(name: str) -> None:
    inputs = make(name, SIZES["more keys"])
    expected = run(name, inputs, "reference")[1:]
    operator = getattr(torch.ops.focalsr, f"smm_{name}_backward_dense")
    operands = (inputs.grad, inputs.x.detach(), inputs.y.detach(), inputs.lists)
    for wanted in ((True, False), (False, True)):
        got = operator(*operands, *wanted)
        for x, y, wants in zip(got, expected, wanted, strict=True):
            torch.testing.assert_close(x, y if wants else y.new_empty(0), rtol=1e-12, atol=1e-12)
        torch.library.opcheck(operator, (*operands, *wanted))


@operators
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("index_type", [torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_gpu_is_the_reference(name: str, dtype: torch.dtype, index_type: torch.dtype, device: str) -> None:
    """Keys that are listed many times among them, which are summed in the same order each time."""
    for sizes in (*SIZES.values(), Sizes(B=0), Sizes(B=20, N=256, M=256, K=64, C=40)):
        inputs = make(name, sizes, dtype)
        expected = run(name, inputs.to(torch.float64), "reference")[1:]
        moved = [x.detach().to(device) for x in (inputs.grad, inputs.x, inputs.y)] + [
            inputs.lists.to(device, index_type)
        ]
        operator = getattr(torch.ops.focalsr, f"smm_{name}_backward_dense")
        got, again = (operator(*moved, True, True) for _ in range(2))
        assert all(torch.equal(x, y) for x, y in zip(got, again, strict=True))
        for x, y in zip(got, expected, strict=True):
            largest = max(1.0, float(y.abs().max())) if y.numel() else 1.0
            torch.testing.assert_close(x.double().cpu(), y, rtol=0, atol=2 * TOLERANCE[dtype] * largest)
