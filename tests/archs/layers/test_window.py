from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archs.layers.window import (
    image_order,
    overlapping_windows,
    shifted_merge,
    shifted_partition,
    window_merge,
    window_order,
    window_partition,
)

SIDES = st.integers(1, 4)


@settings(deadline=None)
@given(batch=st.integers(1, 3), rows=SIDES, columns=SIDES, h=SIDES, w=SIDES)
def test_partition_and_merge(batch: int, rows: int, columns: int, h: int, w: int) -> None:
    x = torch.arange(batch * rows * h * columns * w * 2).view(batch, rows * h, columns * w, 2)
    windows = window_partition(x, (h, w))
    assert windows.shape == (batch * rows * columns, h * w, 2)
    for image in range(batch):
        for row in range(rows):
            for column in range(columns):
                cut = x[image, row * h : (row + 1) * h, column * w : (column + 1) * w].reshape(-1, 2)
                assert torch.equal(windows[(image * rows + row) * columns + column], cut)
    assert torch.equal(window_merge(windows, (h, w), (rows * h, columns * w)), x)


@settings(deadline=None)
@given(rows=SIDES, columns=SIDES, h=SIDES, w=SIDES)
def test_indices_of_graphs_with_free_sides(rows: int, columns: int, h: int, w: int) -> None:
    size = (rows * h, columns * w)
    numbers = torch.arange(size[0] * size[1])
    cut = window_partition(numbers.view(1, *size, 1), (h, w)).flatten()
    assert torch.equal(window_order((h, w), size, numbers.device), cut)
    assert torch.equal(cut[image_order((h, w), size, numbers.device)], numbers)


@settings(deadline=None)
@given(batch=st.integers(1, 2), rows=SIDES, columns=SIDES, w=SIDES, shift=st.integers(0, 3), gradient=st.booleans())
def test_shifted_windows(batch: int, rows: int, columns: int, w: int, shift: int, gradient: bool) -> None:
    x = torch.arange(2.0 * batch * rows * columns * w * w).view(batch, rows * w, columns * w, 2)
    with torch.set_grad_enabled(gradient):
        windows = shifted_partition(x, (w, w), shift)
        assert torch.equal(windows, window_partition(x.roll((-shift, -shift), (1, 2)), (w, w)))
        assert torch.equal(shifted_merge(windows, (w, w), (rows * w, columns * w), shift), x)


def test_partition_takes_strided_images() -> None:
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0)).permute(0, 2, 3, 1)
    assert torch.equal(window_partition(x, (2, 3)), window_partition(x.contiguous(), (2, 3)))


@pytest.mark.parametrize(
    ("window", "extended"), [((4, 4), (6, 6)), ((2, 3), (6, 3)), ((2, 2), (2, 2)), ((1, 2), (5, 8))]
)
def test_overlapping_windows(window: tuple[int, int], extended: tuple[int, int]) -> None:
    (h, w), (eh, ew) = window, extended
    x = torch.randn(2, 3 * h, 2 * w, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = overlapping_windows(x, window, extended)
    top, left = (eh - h) // 2, (ew - w) // 2
    padded = F.pad(x, (0, 0, left, left, top, top))
    expected = torch.stack(
        [
            image[row * h : row * h + eh, column * w : column * w + ew].flatten(0, 1)
            for image in padded
            for row in range(3)
            for column in range(2)
        ]
    )
    assert torch.equal(found, expected)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    gradient, wanted = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected))
    assert torch.allclose(gradient, wanted, atol=1e-6)


def test_shifted_windows_have_the_gradients_of_views() -> None:
    x = torch.randn(2, 4, 6, 3, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(2 * 6, 4, 3, dtype=torch.float64)

    def by_views(x: Tensor) -> Tensor:
        return window_partition(x.roll((-1, -1), (1, 2)), (2, 2))

    found, expected = (torch.autograd.grad(cut(x), x, gradient)[0] for cut in (_cut, by_views))
    assert torch.equal(found, expected)
    assert torch.autograd.gradcheck(_cut, x)
    assert torch.autograd.gradgradcheck(lambda x: shifted_merge(_cut(x).square(), (2, 2), (4, 6), 1), x)


def _cut(x: Tensor) -> Tensor:
    return shifted_partition(x, (2, 2), 1)
