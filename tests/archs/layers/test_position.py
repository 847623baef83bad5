from __future__ import annotations

import pytest
import torch

from archs.layers.position import (
    bias_by_displacement,
    overlapping_position_index,
    published_overlapping_index,
    relative_position_index,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("window", [(4, 4), (2, 5), (1, 3)])
def test_each_row_is_one_displacement(window: tuple[int, int]) -> None:
    h, w = window
    index = relative_position_index(window, CPU)
    expected = [
        [(pr - qr + h - 1) * (2 * w - 1) + (pc - qc + w - 1) for qr in range(h) for qc in range(w)]
        for pr in range(h)
        for pc in range(w)
    ]
    assert index.tolist() == expected
    assert index.unique().tolist() == list(range((2 * h - 1) * (2 * w - 1)))


def test_published_values() -> None:
    index = relative_position_index((16, 16), CPU)
    assert index.shape == (256, 256)
    assert [int(index[0, 0]), int(index[0, 255]), int(index.max())] == [480, 0, 960]
    assert index.dtype is torch.int64
    published = published_overlapping_index((16, 16), (24, 24), CPU)
    assert published.shape == (256, 576)
    assert [int(published.min()), int(published.max())] == [-880, 640]
    assert published.dtype is torch.int64


@pytest.mark.parametrize(
    ("window", "extended"), [((4, 4), (6, 6)), ((2, 4), (4, 4)), ((3, 3), (3, 3)), ((2, 1), (6, 5))]
)
def test_extended_window(window: tuple[int, int], extended: tuple[int, int]) -> None:
    (h, w), (eh, ew) = window, extended
    expected = [
        [(qr - pr + h - eh + 1) * (w + ew - 1) + (qc - pc + w - ew + 1) for qr in range(eh) for qc in range(ew)]
        for pr in range(h)
        for pc in range(w)
    ]
    published = published_overlapping_index(window, extended, CPU)
    assert published.tolist() == expected
    index = overlapping_position_index(window, extended, CPU)
    length = (h + eh - 1) * (w + ew - 1)
    assert index.unique().tolist() == list(range(length))
    table = torch.randn(length, generator=torch.Generator().manual_seed(0))
    assert torch.equal(table[index], table[published])


def test_are_kept() -> None:
    assert relative_position_index((4, 4), CPU) is relative_position_index((4, 4), CPU)


@pytest.mark.parametrize("window", [(4, 4), (2, 5), (1, 3)])
def test_bias_by_displacement_is_the_table_at_each_pair(window: tuple[int, int]) -> None:
    h, w = window
    rows = (2 * h - 1) * (2 * w - 1)
    table = torch.randn(3, rows, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    # The index is of query minus key; a table turned round is one of key minus query.
    index = rows - 1 - relative_position_index(window, CPU)
    found, expected = bias_by_displacement(table, window), table[:, index]
    assert torch.equal(found, expected)
    weight = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, second = (torch.autograd.grad((bias * weight).sum(), table)[0] for bias in (found, expected))
    assert torch.allclose(first, second)
    assert bias_by_displacement(table.bfloat16(), window).dtype is torch.float32
