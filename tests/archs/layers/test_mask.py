from __future__ import annotations

import pytest
import torch

from archs.layers.mask import shift_mask, shift_regions
from archs.layers.window import window_partition

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [
        ((12, 20), (4, 4), (2, 2)),
        ((8, 8), (8, 8), (4, 4)),
        ((8, 24), (4, 8), (2, 4)),
        ((16, 8), (8, 2), (4, 1)),
        ((6, 6), (3, 3), (1, 2)),
    ],
)
def test_hides_what_was_not_next_to_each_other(
    size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]
) -> None:
    # Roll the coordinates: two pixels of a window are neighbours if they are as far apart as they were in the image.
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    place = torch.stack([rows, columns], -1)
    before = window_partition(place[None].roll((-shift[0], -shift[1]), (1, 2)), window)  # [n, h*w, 2]
    inside = window_partition(place[None] % torch.tensor(window), window)
    apart = before[:, :, None] - before[:, None] != inside[:, :, None] - inside[:, None]
    expected = torch.where(apart.any(-1), -100.0, 0.0)
    assert torch.equal(shift_mask(size, window, shift, CPU), expected)
    regions = shift_regions(size, window, shift, CPU)
    assert regions.dtype is torch.uint8  # one byte for each pixel
    assert shift_regions(size, window, shift, CPU) is regions


def test_without_shift_nothing_is_hidden() -> None:
    assert not shift_mask((8, 12), (4, 4), (0, 0), CPU).any()
