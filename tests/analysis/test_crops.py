"""Crops of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.crops import square_crops
from analysis.images import Picture
from utils.errors import InputError


def picture(name: str, height: int, width: int, scale: int = 2) -> Picture:
    """Each pixel of the input says where it is, each of HR too."""
    lr = torch.arange(height)[:, None] * 1000.0 + torch.arange(width)
    hr = np.arange(height * scale)[:, None] * 1000 + np.arange(width * scale)
    return Picture(name, lr[None, None], (hr[..., None] % 251).astype(np.uint8))


def corners(lr: torch.Tensor) -> list[tuple[int, int]]:
    return [(int(crop[0, 0, 0]) // 1000, int(crop[0, 0, 0]) % 1000) for crop in lr]


def test_the_innermost_crop_of_each_picture_comes_first() -> None:
    pictures = [picture("a", 14, 5), picture("small", 3, 9), picture("b", 4, 12), picture("c", 4, 4)]
    found = square_crops(pictures, 4, 7, 2)
    assert (found.pictures, found.too_small) == (("a", "b", "c"), ("small",))
    assert corners(found.lr) == [(5, 0), (0, 4), (0, 0), (1, 0), (0, 0), (9, 0), (0, 8)]
    assert found.lr.shape == (7, 1, 4, 4)
    assert found.hr is not None
    assert found.hr.shape == (7, 8, 8, 1)
    assert found.hr[0, 0, 0, 0] == 2 * 5 * 1000 % 251
    assert [len(batch) for batch in found.batches(3)] == [3, 3, 1]
    assert [len(batch) for batch in found.batches(3, least=2)] == [3, 3]


def test_no_more_pictures_are_read_than_crops_are_wanted() -> None:
    pictures = iter([picture("a", 8, 8), picture("b", 8, 8), picture("c", 8, 8)])
    assert square_crops(pictures, 4, 2, 1).pictures == ("a", "b")
    assert next(pictures).name == "c"
    without = square_crops([Picture("a", torch.rand(1, 3, 4, 4))], 4, 9, 1)
    assert without.hr is None
    assert len(without.lr) == 1


def test_what_gives_no_crops_is_refused() -> None:
    with pytest.raises(InputError, match=r"no picture has 9 x 9 low-resolution pixels; .* --side"):
        square_crops([picture("a", 8, 20)], 9, 2, 1)
    with pytest.raises(InputError, match="side and number must be at least 1, got 0 and 2"):
        square_crops([picture("a", 8, 20)], 0, 2, 1)
