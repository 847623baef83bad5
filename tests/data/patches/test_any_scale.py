"""Patches of any scale: the recorded ones of the published data set, and what the cutter draws."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.images.files import planes
from data.images.pairs import PairPixels
from data.patches.any_scale import AnyScaleCutter, patch_at
from data.patches.augment import Augmentation, Flips
from data.patches.batch import Patch, stack_patches
from data.resizing.matlab import Region
from data.resizing.pillow import pil_bicubic_to
from tests.data.pictures import noise
from tests.golden import seeded
from utils.scale import scaled_length, unscaled_length
from utils.seed import random_stream

FLIPPED, UNFLIPPED = Augmentation(True, True), Augmentation(False, False)


@pytest.fixture
def recorded() -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]:
    shared = os.environ.get("FOCALSR_SHARED")
    if not shared:
        pytest.skip("FOCALSR_SHARED does not name the folder of the reference data")
    path = Path(shared) / "golden/lte_training/data.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    with np.load(path.with_suffix(".npz")) as content:
        arrays = dict(content)
    hr = np.round(255 * seeded().seeded_input("lte_training/data/hr", (1, 3, 61, 73))[0]).astype(np.uint8)
    return info, arrays, np.ascontiguousarray(hr.transpose(1, 2, 0))


@pytest.mark.shared
def test_the_published_samples(recorded: Any) -> None:
    info, arrays, hr = recorded
    for case in info["patches"]:
        side = case["hr_crop"]
        assert round(info["lr_patch"] * case["scale"]) == side
        flips = Flips(case["flip_columns"], case["flip_rows"], case["transpose"])
        chosen = arrays[f"{case['name']}_queries"]
        patch = patch_at(hr, Region(case["top"], case["left"], side, side), info["lr_patch"], flips, chosen)
        lq, gt, points = stack_patches([patch])
        assert lq is not None
        assert points is not None
        assert np.array_equal(lq[0].numpy(), arrays[f"{case['name']}_lr"])
        assert np.array_equal(gt[0, :, :, 0].numpy().T, arrays[f"{case['name']}_gt"])
        coord, cell = points.queries()
        np.testing.assert_allclose(coord[0].numpy(), arrays[f"{case['name']}_coord"], rtol=0, atol=2e-7)
        assert cell.tolist() == [[2 / side, 2 / side]]


@pytest.mark.shared
def test_the_published_whole_images(recorded: Any) -> None:
    info, arrays, hr = recorded
    for case in info["whole"]:
        low = [unscaled_length(side, case["scale"]) for side in hr.shape[:2]]
        height, width = (scaled_length(side, case["scale"]) for side in low)
        assert (low, [height, width]) == (case["lr_size"], case["hr_size"])
        small = pil_bicubic_to(planes(hr[:height, :width]), (low[0], low[1]))
        assert np.array_equal(small.numpy(), arrays[case["array"]])


def cuts(cutter: AnyScaleCutter, image: np.ndarray, count: int) -> list[Patch]:
    return [cutter.cut(PairPixels(image, None), random_stream(number)) for number in range(count)]


def test_scales_are_uniform_and_places_go_to_both_ends() -> None:
    image = noise(40, 48)
    patches = cuts(AnyScaleCutter(8, (1, 4), None, UNFLIPPED), image, 400)
    sides = np.array([patch.side for patch in patches])
    assert sides.min() == 8
    assert sides.max() == 32
    assert abs(np.mean(sides) - 20) < 1
    places = set()
    for patch in patches:
        (found,) = np.argwhere((image == patch.gt[0, 0]).all(-1))
        assert np.array_equal(
            image[found[0] : found[0] + patch.side, found[1] : found[1] + patch.side].reshape(-1, 3), patch.gt[:, 0]
        )
        places.add((patch.side, *found))
    rows = [top / (40 - side) for side, top, _ in places]
    columns = [left / (48 - side) for side, _, left in places]
    assert [min(rows), max(rows), min(columns), max(columns)] == [0, 1, 0, 1]


def test_small_images_bound_the_scale() -> None:
    patches = cuts(AnyScaleCutter(8, (1, 4), 60, FLIPPED), noise(19, 50), 200)
    assert max(patch.side for patch in patches) == 19
    assert min(patch.side for patch in patches) == 8


def test_pixels_are_drawn_without_replacement_and_belong_to_the_flipped_patch() -> None:
    image = noise(30, 30)
    for patch in cuts(AnyScaleCutter(8, (1, 3), 64, FLIPPED), image, 50):
        assert patch.chosen is not None
        assert patch.lq is not None
        assert len(set(patch.chosen.tolist())) == 64
        assert patch.gt.shape == (64, 1, 3)
        whole = np.zeros((patch.side, patch.side, 3), np.uint8)
        whole[np.divmod(patch.chosen, patch.side)] = patch.gt[:, 0]
        if patch.side == 8:  # at x1 all pixels are drawn, and the LR patch is the patch
            assert np.array_equal(whole, patch.lq)
