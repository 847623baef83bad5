"""The autocast decorator of operators: what is cast, and that autocast is off inside."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

import ops
from ops.autocast import autocast_is_on, takes_autocast, without_autocast


@takes_autocast("x", "y")
def product(x: Tensor, y: Tensor, weight: Tensor, factor: float = 1.0) -> tuple[Tensor, torch.dtype, bool]:
    """The product, the type of the weight, and whether autocast is on."""
    return x @ y * factor, weight.dtype, autocast_is_on("cpu")


ONES = torch.ones(2, 2)


@pytest.mark.parametrize("by_name", [False, True], ids=["by place", "by name"])
def test_operands_are_cast_and_nothing_else_is(by_name: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        out, weight, inside = product(x=ONES, y=ONES, weight=ONES) if by_name else product(ONES, ONES, ONES, 2.0)
        assert autocast_is_on("cpu")
    assert out.dtype is torch.bfloat16
    assert weight is torch.float32
    assert not inside


def test_float64_and_integers_stay() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert product(ONES.double(), ONES.double(), ONES)[0].dtype is torch.float64
        assert product(ONES.int(), ONES.int(), ONES)[0].dtype is not torch.bfloat16


def test_without_autocast_operands_are_what_they_were() -> None:
    assert product(ONES, ONES, ONES)[0].dtype is torch.float32
    with torch.autocast("cpu", enabled=False):
        assert product(ONES, ONES, ONES)[0].dtype is torch.float32


def test_a_device_without_autocast_is_left_alone() -> None:
    assert product(ONES.to("meta"), ONES.to("meta"), ONES)[0].dtype is torch.float32


def test_gradients_arrive_in_the_type_of_the_operands() -> None:
    x = torch.ones(2, 2, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = product(x, ONES, ONES)[0]
    out.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype is torch.float32


def test_a_missing_operand_is_the_functions_own_error() -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match="missing"):
        product()  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["window_attention", "focused_attention", "smm_qmk", "smm_amv"])
def test_operators_keep_their_signature_and_documentation(name: str) -> None:
    function = getattr(ops, name)
    assert function.__name__ == name
    assert "backend" in inspect.signature(function).parameters
    assert "Under autocast" in function.__doc__ or "as :func:`smm_qmk`" in function.__doc__


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_types_stay_where_autocast_is_left(device: str) -> None:
    x = torch.ones(2, 2, device=device)
    with torch.autocast("cpu", torch.bfloat16):
        with without_autocast(x.device):
            assert (x @ x).dtype is torch.float32
        assert (ONES @ ONES).dtype is torch.bfloat16
