"""Sizes under any scale."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.scale import as_scale, scale_text, scaled_length, unscaled_length


@pytest.mark.parametrize(("length", "scale", "expected"), [(10, 3.7, 37), (7, 2.5, 18), (9, 4, 36), (3, 1.0, 3)])
def test_scaled_length_is_rounded(length: int, scale: float, expected: int) -> None:
    assert scaled_length(length, scale) == expected


@pytest.mark.parametrize(("length", "scale", "expected"), [(37, 3.7, 10), (36, 3.7, 9), (39, 4, 9), (1, 2.5, 0)])
def test_unscaled_length_is_rounded_down(length: int, scale: float, expected: int) -> None:
    assert unscaled_length(length, scale) == expected


@given(st.integers(1, 5000), st.floats(1, 30) | st.integers(1, 30))
def test_unscaled_length_is_the_largest_that_fits(length: int, scale: float) -> None:
    low = unscaled_length(length, scale)
    assert scaled_length(low, scale) <= length
    assert (low + 1) * scale > length * (1 - 1e-12)


def test_scales_in_words_and_as_numbers() -> None:
    assert [scale_text(scale) for scale in (4, 2.50, (1.0, 4.0))] == ["x4", "x2.5", "x1 to x4"]
    assert isinstance(as_scale(4.0), int)
    assert as_scale(2.5) == 2.5
