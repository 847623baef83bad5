"""DownsampleImageDataset and the resize that it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from data.datasets.downsample import DownsampleImageOptions
from data.images.files import to_tensor, to_uint8, write_image
from data.patches.dataset import PatchDataset
from data.resizing.pillow import pil_bicubic
from data.samples import SampleKey
from tests.data.pictures import noise, write_folder
from utils.errors import InputError

KEYS = [SampleKey(epoch, position, position % 3) for epoch in range(2) for position in range(6)]


def by_pillow(image: np.ndarray, scale: int) -> np.ndarray:
    size = (image.shape[1] // scale, image.shape[0] // scale)
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BICUBIC))


@given(
    height=st.integers(1, 20), width=st.integers(1, 20), scale=st.integers(1, 6), seed=st.integers(0, 99),
    hard=st.booleans(),
)  # fmt: skip
def test_every_value_is_pillows(height: int, width: int, scale: int, seed: int, hard: bool) -> None:
    assume(height <= 2 * width)  # Pillow takes the rows of higher images first
    image = noise(height * scale, width * scale, seed)
    if hard:
        image = np.where(image > 127, 255, 0).astype(np.uint8)  # overshoots on both ends
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())
    result = pil_bicubic(torch.stack([planes, planes]), scale)
    assert np.array_equal(result[1].permute(1, 2, 0).numpy(), by_pillow(image, scale))


@pytest.mark.parametrize("image", [torch.zeros(3, 8, 9, dtype=torch.uint8), torch.zeros(3, 8, 8)])
def test_what_cannot_be_resized_is_refused(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="pil_bicubic: expected uint8"):
        pil_bicubic(image, 2)


def dataset(folder: Path, **more: Any) -> PatchDataset:
    return DownsampleImageOptions(name="D", dataroot_gt=folder, gt_size=12, **more).training_set(3, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path, ["a.png", "b.png", "c.png"], 23, 30)
    return tmp_path


def test_patches_are_made_of_patches(folder: Path) -> None:
    ours = dataset(folder)
    tops = set()
    for key in KEYS:
        sample = ours.sample(key)
        assert sample.gt is not None
        large = to_uint8(sample.gt)
        assert sample.lq.equal(to_tensor(by_pillow(large, 3)))
        rows, _ = np.nonzero((noise(23, 30, key.image) == large[0, 0]).all(-1))
        tops |= {int(row) % 3 for row in rows}
    assert tops == {0, 1, 2}  # any place of the image, whatever the scale


def test_the_device_makes_the_same(folder: Path) -> None:
    loader, device = dataset(folder), dataset(folder, lr_on="device")
    batch = device.collect(KEYS)
    assert batch.lq is None
    for ours, theirs in zip(device.finish(batch), loader.finish(loader.collect(KEYS)), strict=True):
        assert ours.equal(theirs)


def test_whole_images(folder: Path) -> None:
    sample = DownsampleImageOptions(name="D", dataroot_gt=folder).evaluation_set(3).read(1)
    assert sample.lq.equal(to_tensor(by_pillow(noise(23, 30, 1)[:21], 3)))
    assert sample.gt is not None
    assert sample.gt.shape == (3, 21, 30)


def test_images_smaller_than_a_patch(folder: Path) -> None:
    write_image(folder / "a.png", noise(11, 30))
    with pytest.raises(InputError, match=r"a\.png: the image is 11 x 30 .*smaller than 12 x 12"):
        dataset(folder).sample(KEYS[0])
