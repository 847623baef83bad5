"""The amount of detail in a window."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from analysis.attribution.objective import Flat, Window, detail, most_detailed
from utils.errors import InputError


def images(*size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("window", [Window(2, 1, 3), Window(0, 0, 1), Window(5, 4, 9)])
def test_it_is_the_sum_of_gradients_in_the_window(window: Window) -> None:
    sr = images(2, 3, 8, 9)
    expected = torch.zeros(2, dtype=torch.float64)
    for y in range(window.y, min(window.y + window.size, 7)):
        for x in range(window.x, min(window.x + window.size, 8)):
            here = sr[:, :, y, x]
            expected += ((here - sr[:, :, y + 1, x]) ** 2 + (here - sr[:, :, y, x + 1]) ** 2).sqrt().sum(1)
    for flat in get_args(Flat):
        assert torch.allclose(detail(sr, window, flat), expected)


def test_flat_places_have_no_derivative_unless_that_is_asked_for() -> None:
    sr = images(1, 1, 5, 5)
    sr[0, 0, 1:3, 1:3] = 0.5
    sr.requires_grad_()
    for flat, count in zip(get_args(Flat), (3, 0), strict=True):
        [gradient] = torch.autograd.grad(detail(sr, Window(0, 0, 3), flat).sum(), sr)
        assert gradient.isnan().sum() == count  # the pixel and those below and to the right
        assert gradient.nan_to_num(0).any()


def test_windows_are_cut_at_the_last_gradient() -> None:
    assert Window(44, 50, 12).cut(60, 52) == (9, 7)
    assert Window(0, 0, 12).cut(60, 52) == (12, 12)


@pytest.mark.parametrize("window", [Window(51, 0, 4), Window(0, 59, 4), Window(-1, 0, 4), Window(0, -1, 4)])
def test_windows_outside_are_refused(window: Window) -> None:
    with pytest.raises(
        InputError, match=r"begins outside the SR image, which has 52 x 60 pixels: x must be from 0 to 50"
    ):
        window.cut(60, 52)


def test_windows_have_pixels() -> None:
    with pytest.raises(InputError, match=r"the window 3,4,0 .* its side must be at least 1"):
        Window(3, 4, 0).cut(60, 52)


def test_the_window_with_the_most_detail_is_found() -> None:
    image = torch.zeros(3, 40, 60)
    image[:, 11:16, 31:36] = images(3, 5, 5).float()
    found = most_detailed(image, 8)
    assert found.size == 8
    assert found.x <= 30 <= 36 <= found.x + 8
    assert found.y <= 10 <= 16 <= found.y + 8
    sums = {(x, y): float(detail(image[None].double(), Window(x, y, 8))) for x in range(7, 45) for y in range(5, 27)}
    assert float(detail(image[None].double(), found)) == pytest.approx(max(sums.values()))


def test_it_is_not_at_the_border_but_in_small_images() -> None:
    image = torch.zeros(1, 40, 40)
    image[:, :2, :2] = images(1, 2, 2).float()
    image[:, 20, 20] = 0.1
    assert most_detailed(image, 8).cut(40, 40) == (8, 8)
    assert most_detailed(image, 8).y >= 5
    assert most_detailed(images(1, 6, 9), 16) == Window(most_detailed(images(1, 6, 9), 16).x, 0, 5)
    with pytest.raises(InputError, match="no window with detail"):
        most_detailed(torch.zeros(3, 1, 9), 4)
