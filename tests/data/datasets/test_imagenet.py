"""ImageNetPairedDataset: sizes, values, and low-resolution patches that are those of the whole image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data.dataset_options import IoBackend
from data.datasets.imagenet import ImageNetPairedOptions
from data.images.files import write_image
from data.patches.dataset import PatchDataset
from data.resizing.matlab import imresize
from data.samples import SampleKey
from data.whole import WholeImages
from tests.data.pictures import BACKENDS, Backend, noise, write_folder
from utils.errors import InputError

KEYS = [SampleKey(epoch, position, position % 3) for epoch in range(2) for position in range(6)]


def dataset(folder: Path, scale: int = 4, **more: Any) -> PatchDataset:
    more.setdefault("gt_size", 16)
    return ImageNetPairedOptions(name="I", dataroot_gt=folder, **more).training_set(scale, 2)


def whole_images(folder: Path, scale: int = 4, gt_size: int = 16) -> WholeImages:
    return ImageNetPairedOptions(name="I", dataroot_gt=folder, gt_size=gt_size).evaluation_set(scale)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path, ["a.png"], 41, 30)
    write_image(tmp_path / "b.png", noise(10, 50, 1))
    write_image(tmp_path / "c.png", noise(5, 6, 2))
    return tmp_path


@pytest.mark.shared
def test_recorded_pairs(shared: Path, tmp_path: Path) -> None:
    arrays = np.load(shared / "golden/formats/imagenet_pair.npz")
    cases = json.loads((shared / "golden/formats/imagenet_pair.json").read_text())["cases"]
    assert cases
    for number, case in enumerate(cases):
        write_image(tmp_path / str(number) / "a.png", arrays[case["input"]])
        sample = whole_images(tmp_path / str(number), case["scale"], case["gt_size"]).read(0)
        assert sample.gt is not None
        for ours, name in ((sample.gt, "gt"), (sample.lq, "lq")):
            np.testing.assert_allclose(
                ours.permute(1, 2, 0).numpy(), arrays[case[name]], rtol=0, atol=case["atol"], err_msg=case[name]
            )


@pytest.mark.parametrize(("index", "size"), [(0, (40, 28)), (1, (16, 48)), (2, (16, 16))])
def test_short_sides_are_stretched(folder: Path, index: int, size: tuple[int, int]) -> None:
    sample = whole_images(folder).read(index)
    assert sample.gt is not None
    assert sample.gt.shape == (3, *size)
    assert sample.lq.shape == (3, size[0] // 4, size[1] // 4)
    source = noise(*((41, 30), (10, 50), (5, 6))[index], index)
    cropped = source[: source.shape[0] // 4 * 4, : source.shape[1] // 4 * 4].astype(np.float32) / 255
    expected = cv2.resize(cropped, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(sample.gt.permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lr_on", ["loader", "device"])
@pytest.mark.parametrize("scale", [2, 4])
def test_patches_are_those_of_the_whole_image(folder: Path, lr_on: str, scale: int) -> None:
    train = dataset(folder, scale, use_hflip=False, use_rot=False, lr_on=lr_on)
    side = 16 // scale
    for key in KEYS:
        sample = train.sample(key)
        whole = whole_images(folder, scale).read(key.image)
        assert whole.gt is not None
        assert sample.gt is not None
        assert sample.lq.shape == (3, side, side)
        places = [
            (top, left)
            for top in range(whole.lq.shape[1] - side + 1)
            for left in range(whole.lq.shape[2] - side + 1)
            if whole.gt[:, top * scale : top * scale + 16, left * scale : left * scale + 16].equal(sample.gt)
        ]
        (top, left), *_ = places
        part = whole.lq[:, top : top + side, left : left + side]
        np.testing.assert_allclose(sample.lq.numpy(), part.numpy(), rtol=0, atol=1e-6)


def test_low_resolution_is_neither_rounded_nor_clipped(tmp_path: Path) -> None:
    image = np.where(noise(4, 4) > 127, 255, 0).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    write_image(tmp_path / "a.png", image)
    sample = whole_images(tmp_path).read(0)
    assert sample.lq.max() > 1 or sample.lq.min() < 0
    np.testing.assert_allclose(sample.lq.permute(1, 2, 0).numpy(), imresize(image / 255.0, 0.25), rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_device_makes_the_same(folder: Path, backend: Backend) -> None:
    loader, device = dataset(folder), dataset(folder, lr_on="device", io_backend=IoBackend(type=backend))
    for keys in (KEYS, KEYS[:1]):  # batches that hold stretched images, and one that holds none
        batch = device.collect(keys)
        assert batch.lq is None
        for ours, theirs in zip(device.finish(batch), loader.finish(loader.collect(keys)), strict=True):
            assert ours.equal(theirs)


def test_a_batch_does_not_change_its_samples(folder: Path) -> None:
    train = dataset(folder)
    lq, gt = train.finish(train.collect(KEYS))
    for i, key in enumerate(KEYS):
        sample = train.sample(key)
        assert sample.gt is not None
        assert lq[i].equal(sample.lq)
        assert gt[i].equal(sample.gt)


def test_images_without_a_pixel_left(folder: Path) -> None:
    write_image(folder / "c.png", noise(3, 30))
    with pytest.raises(InputError, match=r"c\.png: the image is 3 x 30 .*smaller than one pixel at x4"):
        dataset(folder).sample(SampleKey(0, 2, 2))
