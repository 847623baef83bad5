"""Operators of PyTorch made from named tuples: schema, fake kernel, gradient and FLOP count."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ops.registration import NAMESPACE, register, schema

_numbers = itertools.count()


class Scale(NamedTuple):
    """Arguments of every kind that schemas have."""

    x: Tensor
    weight: Tensor | None
    power: int
    factor: float
    negate: bool
    rows: int | torch.SymInt


def scaled(arguments: Scale) -> Tensor:
    x, weight, power, factor, negate, _ = arguments
    out = x.clone() if weight is None else x * weight
    return -(out**power) * factor if negate else out**power * factor


@pytest.fixture
def operator() -> Any:
    """``factor * x``, differentiable, under a name of its own: names cannot be taken back."""
    name = f"test_scale_{next(_numbers)}"

    def keep(ctx: Any, arguments: Scale, output: Tensor) -> None:
        ctx.factor = arguments.factor

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.factor, None, None, None, None, None

    register(
        name, Scale, "Tensor", kernel=scaled, fake=lambda arguments: torch.empty_like(arguments.x), keep=keep,
        differentiate=differentiate, flops=lambda sizes: 3 * sizes.x.numel() * sizes.power,
    )  # fmt: skip
    return getattr(getattr(torch.ops, NAMESPACE), name)


def test_the_schema_is_made_from_the_fields() -> None:
    expected = "(Tensor x, Tensor? weight, int power, float factor, bool negate, SymInt rows) -> (Tensor a, Tensor b)"
    assert schema(Scale, "(Tensor a, Tensor b)") == expected


def test_a_field_that_schemas_do_not_have_is_refused() -> None:
    class Wrong(NamedTuple):
        names: list[str]

    with pytest.raises(KeyError, match="list"):
        schema(Wrong, "Tensor")


def test_an_operator_is_called_with_the_fields(operator: Any) -> None:
    x = torch.randn(2, 3)
    torch.testing.assert_close(operator(*Scale(x, None, 2, 0.5, True, 4)), -0.5 * x**2)
    torch.testing.assert_close(operator(*Scale(x, x, 1, 0.5, False, 4)), 0.5 * x * x)


def test_an_operator_passes_the_checks_of_pytorch(operator: Any) -> None:
    torch.library.opcheck(operator, tuple(Scale(torch.randn(2, 3, requires_grad=True), None, 1, 0.5, False, 4)))


def test_gradient_and_flops_of_an_operator(operator: Any) -> None:
    x = torch.randn(2, 3, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = operator(*Scale(x, None, 2, 0.5, False, 4))
    assert counter.get_total_flops() == 3 * 6 * 2
    assert torch.equal(torch.autograd.grad(out.sum(), x)[0], torch.full((2, 3), 0.5))


def test_an_operator_compiles_as_one_graph(operator: Any) -> None:
    x = torch.randn(2, 3)
    compiled = torch.compile(lambda x: operator(*Scale(x, None, 1, 0.5, False, 4)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), 0.5 * x)
