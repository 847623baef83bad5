"""Reflection as far as is asked."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from archs.layers.reflect import crop, reflect, reflect_to_multiple


def test_where_the_framework_can_it_is_the_same() -> None:
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = F.pad(x, (2, 4, 3, 1), mode="reflect")
    assert torch.equal(reflect(reflect(x, 2, 9, before=3), 3, 12, before=2), expected)
    assert reflect(x, 2, 5) is x


def test_it_bounces_between_the_edges() -> None:
    x = torch.tensor([1, 2, 3])
    assert reflect(x, 0, 12, before=3).tolist() == [2, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2, 1]
    assert reflect(torch.tensor([7]), 0, 4).tolist() == [7, 7, 7, 7]


@pytest.mark.parametrize("size", [(1, 3), (4, 8), (5, 9)])
def test_multiples_and_back(size: tuple[int, int]) -> None:
    x = torch.randn(2, *size, 3, generator=torch.Generator().manual_seed(0))
    extended = reflect_to_multiple(x, 4)
    assert extended.shape[1] % 4 == extended.shape[2] % 4 == 0
    assert torch.equal(crop(extended, size), x)
    by_image = reflect_to_multiple(x.permute(0, 3, 1, 2), 4, (2, 3))
    assert torch.equal(by_image.permute(0, 2, 3, 1), extended)
