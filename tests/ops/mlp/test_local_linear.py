"""local_linear: gelu_depthwise and a linear layer, as one function in training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ops import gelu_depthwise
from ops.mlp.local_linear import local_linear, serves_local_linear
from ops.registry import ENVIRONMENT
from tests.ops.kernels import require_cpu_kernels


@pytest.fixture(scope="module")
def arguments() -> tuple[Tensor, ...]:
    require_cpu_kernels("gelu_depthwise")
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 9, 11, 13), (13, 1, 5, 5), (13,), (6, 13), (6,)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def composed(x: Tensor, taps: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(gelu_depthwise(x, taps, offset, "reference"), weight, bias)


@pytest.mark.build
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_it_is_both_after_each_other(arguments: tuple[Tensor, ...], dtype: torch.dtype, tolerance: float) -> None:
    grad = torch.randn(2, 9, 11, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def run(function: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        leaves = [tensor.to(dtype, copy=True).requires_grad_() for tensor in arguments]
        out = function(*leaves)
        return [out, *torch.autograd.grad(out, leaves, grad.to(dtype))]

    assert serves_local_linear(*(tensor.to(dtype) for tensor in arguments))
    for found, expected in zip(run(local_linear, dtype), run(composed, torch.float64), strict=True):
        assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.build
def test_it_keeps_what_it_takes_alone(arguments: tuple[Tensor, ...]) -> None:
    leaves = [tensor.clone().requires_grad_() for tensor in arguments]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()), lambda x: x):
        local_linear(*leaves)
    assert set(kept) == {tensor.data_ptr() for tensor in leaves[:4]}


@pytest.mark.build
def test_what_it_does_not_take(arguments: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not serves_local_linear(arguments[0].float(), *arguments[1:])
    with torch.autocast("cpu"):
        assert not serves_local_linear(*arguments)
    monkeypatch.setenv(ENVIRONMENT, "reference")
    assert not serves_local_linear(*arguments)
