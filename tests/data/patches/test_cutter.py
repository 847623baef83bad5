"""Cutters: every place is drawn, both images stay aligned, small images are mirrored."""

from __future__ import annotations

import numpy as np
import pytest

from data.images.pairs import PairPixels
from data.patches.augment import Augmentation, flip
from data.patches.cutter import AlignedCutter, AnywhereCutter, Cutter, MirroringCutter
from tests.data.pictures import noise
from utils.seed import random_stream

UNFLIPPED = Augmentation(hflip=False, rotation=False)
FLIPPED = Augmentation(hflip=True, rotation=True)


def places(patch: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Where in the image the patch is found."""
    height, width = patch.shape[:2]
    return [
        (top, left)
        for top in range(image.shape[0] - height + 1)
        for left in range(image.shape[1] - width + 1)
        if np.array_equal(image[top : top + height, left : left + width], patch)
    ]


def test_aligned_patches_start_at_a_low_resolution_pixel_everywhere() -> None:
    gt, lq = noise(18, 12), noise(6, 4, 1)
    seen = set()
    for number in range(200):
        patch = AlignedCutter(9, 3, UNFLIPPED).cut(PairPixels(gt, lq), random_stream(number))
        assert patch.lq is not None
        [(top, left)] = places(patch.lq, lq)
        assert places(patch.gt, gt) == [(top * 3, left * 3)]
        seen.add((top, left))
    assert seen == {(top, left) for top in range(4) for left in range(2)}


def test_both_images_are_flipped_alike() -> None:
    lq = noise(4, 4)
    gt = lq.repeat(2, axis=0).repeat(2, axis=1)
    seen = set()
    for number in range(100):
        patch = AlignedCutter(8, 2, FLIPPED).cut(PairPixels(gt, lq), random_stream(number))
        assert patch.lq is not None
        assert np.array_equal(patch.gt, patch.lq.repeat(2, axis=0).repeat(2, axis=1))
        seen.add(patch.lq.tobytes())
    assert len(seen) == 8


def test_a_margin_is_cut_with_the_patch_and_mirrored_at_the_borders() -> None:
    gt = noise(12, 12)
    mirrored = np.pad(gt, ((4, 4), (4, 4), (0, 0)), mode="symmetric")
    for number in range(20):
        wide = AlignedCutter(4, 2, UNFLIPPED, margin=2).cut(PairPixels(gt, None), random_stream(number))
        patch = AlignedCutter(4, 2, UNFLIPPED).cut(PairPixels(gt, None), random_stream(number))
        assert wide.lq is None
        assert wide.gt.shape == (12, 12, 3)
        assert np.array_equal(wide.gt[4:-4, 4:-4], patch.gt)
        assert places(wide.gt, mirrored)


def test_patches_anywhere_start_at_every_pixel() -> None:
    gt = noise(7, 6)
    seen = [places(AnywhereCutter(4, UNFLIPPED).cut(PairPixels(gt, None), random_stream(n)).gt, gt) for n in range(300)]
    assert {place for [place] in seen} == {(top, left) for top in range(4) for left in range(3)}


@pytest.mark.parametrize(("height", "width"), [(20, 30), (5, 30), (20, 3), (2, 2)])
def test_images_that_are_too_small_are_continued_by_mirroring(height: int, width: int) -> None:
    gt = noise(height, width)
    patch = MirroringCutter(16, UNFLIPPED).cut(PairPixels(gt, None), random_stream(0)).gt
    assert patch.shape == (16, 16, 3)
    below, right = max(16 - height, 0), max(16 - width, 0)
    assert places(patch, np.pad(gt, ((0, below), (0, right), (0, 0)), mode="reflect"))


@pytest.mark.parametrize(("height", "width"), [(20, 30), (5, 30), (20, 3), (9, 13), (2, 2)])
def test_images_are_flipped_before_they_are_continued(height: int, width: int) -> None:
    gt = noise(height, width)
    seen = set()
    for number in range(60):
        patch = MirroringCutter(16, FLIPPED).cut(PairPixels(gt, None), random_stream(number)).gt
        flips = FLIPPED.draw(random_stream(number))  # the first that is drawn
        published = flip(gt, flips)
        below, right = (max(16 - side, 0) for side in published.shape[:2])
        assert places(patch, np.pad(published, ((0, below), (0, right), (0, 0)), mode="reflect"))
        seen.add(flips)
    assert len(seen) == 8


@pytest.mark.parametrize(
    "cutter", [AlignedCutter(8, 2, FLIPPED, 2), AnywhereCutter(8, FLIPPED), MirroringCutter(8, FLIPPED)]
)
def test_a_patch_depends_on_its_random_stream_alone(cutter: Cutter) -> None:
    images = PairPixels(noise(40, 40), None)
    first, second, other = (cutter.cut(images, random_stream(5, seed)).gt for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_an_image_is_cut_without_being_copied() -> None:
    image = noise(40, 40)
    for cutter in (AlignedCutter(8, 2, UNFLIPPED), AnywhereCutter(8, UNFLIPPED), MirroringCutter(8, UNFLIPPED)):
        assert np.shares_memory(cutter.cut(PairPixels(image, None), random_stream(0)).gt, image)
