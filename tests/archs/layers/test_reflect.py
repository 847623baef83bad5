"""Images extended to multiples, and back."""

from __future__ import annotations

import pytest
import torch

from archs.layers.reflect import crop, reflect_to_multiple


@pytest.mark.parametrize("size", [(1, 3), (4, 8), (5, 9)])
def test_multiples_and_back(size: tuple[int, int]) -> None:
    x = torch.randn(2, *size, 3, generator=torch.Generator().manual_seed(0))
    extended = reflect_to_multiple(x, 4)
    assert extended.shape[1] % 4 == extended.shape[2] % 4 == 0
    assert torch.equal(crop(extended, size), x)
    by_image = reflect_to_multiple(x.permute(0, 3, 1, 2), 4, (2, 3))
    assert torch.equal(by_image.permute(0, 2, 3, 1), extended)
