"""Windows that slide along an axis, in traced programs too."""

from __future__ import annotations

import pytest
import torch

from archs.layers.sliding import sliding


@pytest.mark.filterwarnings("ignore")  # PyTorch names each size that the program takes as it is
@pytest.mark.parametrize(("dim", "size", "step"), [(0, 2, 1), (1, 4, 3), (2, 9, 5), (1, 3, 2)])
def test_traced_windows_are_those_of_unfold(dim: int, size: int, step: int) -> None:
    x = torch.rand(3, 8, 9)
    expected = x.unfold(dim, size, step)
    assert torch.equal(sliding(x, dim, size, step), expected)
    traced = torch.jit.trace(lambda x: sliding(x, dim, size, step), x)
    assert torch.equal(traced(x), expected)
    assert "unfold" not in str(traced.inlined_graph)
