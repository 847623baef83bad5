"""Queries, keys and values by head: views, and gradients that are PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from archs.layers.heads import joined_heads, separate_heads


def as_published(qkv: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


@pytest.mark.parametrize("used", [(0, 1, 2), (0, 2), (1,)])
@pytest.mark.parametrize("token_major", [True, False])
def test_gradients_are_those_of_views(used: tuple[int, ...], token_major: bool) -> None:
    qkv = torch.randn(2, 6, 3 * 8, dtype=torch.float64, requires_grad=True)
    gradients = [torch.randn(2, 6, 4, 2).double().transpose(1, 2) for _ in used]
    gradients = [x if token_major else x.contiguous() for x in gradients]
    parts, expected = separate_heads(qkv, 4), as_published(qkv, 4)
    for part, other in zip(parts, expected, strict=True):
        assert torch.equal(part, other)
        assert part.data_ptr() == other.data_ptr()
    found = torch.autograd.grad([parts[i] for i in used], qkv, gradients)[0]
    assert torch.equal(found, torch.autograd.grad([expected[i] for i in used], qkv, gradients)[0])


def test_values_are_joined_without_a_copy_and_have_both_gradients() -> None:
    qkv = torch.randn(2, 6, 3 * 8, dtype=torch.float64, requires_grad=True)
    values = joined_heads(separate_heads(qkv, 2)[2])
    assert torch.equal(values, qkv[..., 16:])
    assert values.untyped_storage().data_ptr() == qkv.untyped_storage().data_ptr()

    def products(qkv: Tensor) -> Tensor:
        q, k, v = separate_heads(qkv, 2)
        return torch.cat([q * k * v, v.square()]).sum() * joined_heads(v).sum()

    assert torch.autograd.gradcheck(products, qkv)
    assert torch.autograd.gradgradcheck(products, qkv)


def test_nothing_is_made_where_no_gradient_is_wanted() -> None:
    parts = separate_heads(torch.randn(1, 4, 12), 2)
    assert all(part.grad_fn is None for part in parts)
