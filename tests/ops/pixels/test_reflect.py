"""Reflection as far as is asked."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ops.pixels.reflect import reflect


def test_where_the_framework_can_it_is_the_same() -> None:
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = F.pad(x, (2, 4, 3, 1), mode="reflect")
    assert torch.equal(reflect(reflect(x, 2, 9, before=3), 3, 12, before=2), expected)
    assert reflect(x, 2, 5) is x


def test_it_bounces_between_the_edges() -> None:
    x = torch.tensor([1, 2, 3])
    assert reflect(x, 0, 12, before=3).tolist() == [2, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2, 1]
    assert reflect(torch.tensor([7]), 0, 4).tolist() == [7, 7, 7, 7]
