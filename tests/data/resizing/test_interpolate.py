"""Stretching; the modes of interpolate are checked where images are degraded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.resizing.interpolate import interpolate, stretch
from tests.data.pictures import noise


@pytest.mark.parametrize(("size", "expected"), [((5, 30), (16, 30)), ((20, 7), (20, 16)), ((3, 4), (16, 16))])
def test_sides_that_are_too_short_are_stretched_and_the_others_kept(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    image = noise(*size).astype(np.float32) / 255
    result = stretch(image, 16)
    assert result.dtype == np.float32
    assert result.shape == (*expected, 3)
    # Corners are repeated, not averaged: the first half pixel lies outside of the first centre.
    assert np.array_equal(result[0, 0], image[0, 0])


def test_a_large_enough_image_keeps_its_pixels() -> None:
    image = noise(16, 20).astype(np.float32) / 255
    assert np.array_equal(stretch(image, 16), image)


def test_a_factor_and_the_size_that_it_leads_to_are_the_same() -> None:
    images = torch.from_numpy(noise(12, 16).astype(np.float32)).permute(2, 0, 1)[None]
    assert interpolate(images, "bicubic", factor=0.5).equal(interpolate(images, "bicubic", size=(6, 8)))
