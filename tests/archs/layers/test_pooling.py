from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archs.layers.pooling import SoftPool2d, soft_pool2d
from utils.errors import InputError


def windows(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """[B, C, H, W] -> [B, C, h, w, K*K], one copy for each window; a small direction is one window."""
    height, width = (min(kernel_size, side) for side in x.shape[-2:])
    return x.unfold(2, height, stride).unfold(3, width, stride).flatten(-2)


def by_definition(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    values = windows(x, kernel_size, stride)
    return (values.exp() * values).sum(-1) / values.exp().sum(-1)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    kernel_size=st.integers(1, 7),
    stride=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_is_the_exponentially_weighted_mean(height: int, width: int, kernel_size: int, stride: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64).requires_grad_()
    expected, found = by_definition(x, kernel_size, stride), soft_pool2d(x, kernel_size, stride)
    assert torch.allclose(found, expected, rtol=0, atol=1e-13)
    weight = torch.rand(found.shape, generator=generator, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(expected, x, weight)
    (gradient,) = torch.autograd.grad(found, x, weight)
    assert torch.allclose(gradient, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_huge_spreads_stay_finite_and_between_the_windows_extremes(dtype: torch.dtype) -> None:
    # Next to each other -30000 and 30000: relative to the maximum of the map, half of the windows would be 0 / 0.
    x = torch.randn(2, 3, 31, 40, generator=torch.Generator().manual_seed(0))
    x[..., :20] = x[..., :20] * 100 - 30000
    x[..., 20:] = x[..., 20:] * 100 + 30000
    x = x.to(dtype).requires_grad_()
    y = soft_pool2d(x, 7, 3)
    assert y.dtype is dtype
    values = windows(x.detach().float(), 7, 3)
    rounding = 40000 * 4 * torch.finfo(dtype).eps
    assert ((y >= values.amin(-1) - rounding) & (y <= values.amax(-1) + rounding)).all()
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_half_precision_is_rounded_once() -> None:
    x = torch.randn(1, 2, 20, 20, generator=torch.Generator().manual_seed(0)).mul(8).half()
    assert torch.equal(soft_pool2d(x, 7, 3), soft_pool2d(x.float(), 7, 3).half())


def test_second_derivatives() -> None:
    x = torch.randn(1, 1, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: soft_pool2d(v, 3, 2), x)


def test_layer() -> None:
    layer = SoftPool2d(7, 3)
    x = torch.randn(1, 2, 16, 13, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(x), soft_pool2d(x, 7, 3))
    assert not layer.state_dict()
    assert "kernel_size=7, stride=3" in repr(layer)
    with pytest.raises(InputError, match="at least 1"):
        SoftPool2d(0, 3)
