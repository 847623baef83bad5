from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archs.layers.size import SizeRule, extended
from utils.errors import InputError


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 100))
def test_padded_is_the_smallest_allowed_size(size: int, multiple: int, minimum: int) -> None:
    padded = SizeRule(multiple=multiple, minimum=minimum).padded(size)
    allowed = [s for s in range(size, size + minimum + multiple + 1) if s >= minimum and s % multiple == 0]
    assert padded == allowed[0]


def test_sizes_are_positive() -> None:
    with pytest.raises(InputError, match="multiple must be at least 1, got 0"):
        SizeRule(multiple=0)
    with pytest.raises(InputError, match="minimum must be at least 1, got -1"):
        SizeRule(minimum=-1)
    with pytest.raises(InputError, match="tile_multiple must be at least 1, got 0"):
        SizeRule(tile_multiple=0)
    with pytest.raises(InputError, match="largest must be at least minimum, 9, got"):
        SizeRule(minimum=9, largest=(8, 20))


def test_axes_are_extended_at_their_end() -> None:
    x = torch.arange(4.0).reshape(2, 2)
    assert extended(x, 1, 5, "reflect").tolist() == [[0, 1, 0, 1, 0], [2, 3, 2, 3, 2]]
    assert extended(x, 0, 3, "replicate").tolist() == [[0, 1], [2, 3], [2, 3]]
    assert extended(x, 0, 2, "replicate") is x
