"""linear_rows: the compiled kernel against PyTorch's layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ops import linear_rows
from ops.mlp.linear_rows import LARGEST, LINEAR_ROWS, LinearRowsCall, RowNorm
from tests.ops.kernels import require_cpu_kernels
from utils.errors import InputError

TOLERANCE = {torch.float64: 1e-14, torch.float32: 2e-6}


@pytest.fixture(autouse=True)
def kernels(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("build"):
        require_cpu_kernels("linear_rows")


def operands(rows: int, channels: int, out: int, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Of a call with everything: an order with repetitions, a normalisation, sums before and after."""
    generator = torch.Generator().manual_seed(rows)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    made = 2 * rows - 1
    return {
        "x": 3 * random(rows, channels + 2)[:, 1 : channels + 1] + 1,  # rows of a wider tensor
        "weight": random(out, channels),
        "bias": random(out),
        "order": torch.randint(rows, (made,), generator=generator),
        "norm": RowNorm(random(channels), random(channels), 1e-5),
        "added": random(made, channels),
        "residual": random(made, out),
    }


@pytest.mark.build
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("left_out", [(), ("norm",), ("added", "residual"), ("bias",), ("order", "added", "residual")])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (97, 13, 29), (50, 52, 156), (7, 16, 8)])
def test_the_kernel_is_what_the_layers_are(
    sizes: tuple[int, int, int], left_out: tuple[str, ...], dtype: torch.dtype
) -> None:
    given = {name: x for name, x in operands(*sizes, dtype).items() if name not in left_out}
    found = linear_rows(**given, backend="native")
    exact: dict[str, Any] = {
        name: x.double() if isinstance(x, Tensor) and name != "order" else x for name, x in given.items()
    }
    if "norm" in exact:
        norm = exact["norm"]
        exact["norm"] = RowNorm(norm.weight.double(), norm.bias.double(), norm.eps)
    expected = linear_rows(**exact, backend="reference")
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE[dtype] * max(1.0, float(expected.abs().max()))


@pytest.mark.build
def test_a_row_is_the_same_wherever_it_is() -> None:
    given = operands(110, 21, 19, torch.float32)
    whole = linear_rows(**given)
    given["order"], given["added"], given["residual"] = (given[x][53:61] for x in ("order", "added", "residual"))
    assert torch.equal(linear_rows(**given), whole[53:61])


@pytest.mark.build
def test_no_row_beyond_x_is_read() -> None:
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    for wrong in (3, -1):
        with pytest.raises(IndexError, match="rows outside 0 to 2"):
            linear_rows(x, weight, order=torch.tensor([0, wrong]))
    assert linear_rows(x, weight, order=torch.empty(0, dtype=torch.int64)).shape == (0, 5)


def test_what_the_kernel_does_not_serve() -> None:
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    assert linear_rows(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(InputError, match="no backward pass"):
        linear_rows(x, weight.clone().requires_grad_(), backend="native")
    with pytest.raises(InputError, match="float32 and float64"):
        linear_rows(x, weight.double(), backend="native")
    assert LINEAR_ROWS.choose(LinearRowsCall("cpu", channels=LARGEST + 1)).name == "reference"
    with pytest.raises(InputError, match=r"residual is \[3, 4\], expected \[3, 5\]"):
        linear_rows(x, weight, residual=x)
    with pytest.raises(InputError, match="expected"):
        linear_rows(x, weight.T)


def test_gradients() -> None:
    given = operands(4, 3, 2)
    order = given.pop("order")
    norm = given.pop("norm")
    given |= {"norm_weight": norm.weight, "norm_bias": norm.bias}
    leaves = [x.clone().requires_grad_() for x in given.values()]

    def function(*tensors: Tensor) -> Tensor:
        named: dict[str, Any] = dict(zip(given, tensors, strict=True))
        norm = RowNorm(named.pop("norm_weight"), named.pop("norm_bias"), 1e-5)
        return linear_rows(**named, order=order, norm=norm)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("backend", [pytest.param("native", marks=pytest.mark.build), "reference"])
def test_flops_are_those_of_the_product(backend: str) -> None:
    with FlopCounterMode(display=False) as counter:
        linear_rows(**operands(4, 6, 5, torch.float32), backend=backend)
    assert counter.get_total_flops() == 2 * 7 * 6 * 5
