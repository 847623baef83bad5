"""Whole images at a scale that is no whole number; those at whole ones are tested with their data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data import PairedImageOptions, build_dataset
from data.images.files import planes, read_image, write_image
from data.resizing.pillow import pil_bicubic_to
from utils.errors import InputError


def folder(path: Path, *sizes: tuple[int, int]) -> Path:
    for i, size in enumerate(sizes):
        write_image(path / f"{i}.png", np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8))
    return path


def test_low_resolution_images_are_made_of_what_they_belong_to(tmp_path: Path) -> None:
    options = PairedImageOptions(name="A", dataroot_gt=folder(tmp_path / "gt", (40, 37), (21, 50)))
    dataset = build_dataset(options, scale=3.7, phase="test")
    assert dataset.scan() == ()
    shapes = []
    for i in range(len(dataset)):
        sample = dataset.read(i)
        assert sample.gt is not None
        shapes.append((*sample.lq.shape[1:], *sample.gt.shape[1:]))
        whole = read_image(tmp_path / "gt" / f"{i}.png")
        gt = planes(whole[: sample.gt.shape[1], : sample.gt.shape[2]])
        assert torch.equal((sample.gt * 255).round().byte(), gt)
        assert torch.equal(
            (sample.lq * 255).round().byte(), pil_bicubic_to(gt, (sample.lq.shape[1], sample.lq.shape[2]))
        )
    assert shapes == [(10, 10, 37, 37), (5, 13, 18, 48)]


def test_low_resolution_images_that_are_given(tmp_path: Path) -> None:
    gt, lq = folder(tmp_path / "gt", (40, 37)), folder(tmp_path / "lq", (10, 9))
    options = PairedImageOptions(name="A", dataroot_gt=gt, dataroot_lq=lq)
    sample = options.evaluation_set(2.5).read(0)
    assert sample.gt is not None
    assert (sample.lq.shape, sample.gt.shape) == ((3, 10, 9), (3, 25, 22))
    with pytest.raises(InputError, match=r"10 x 9|9 x 10.*x4\.5 larger"):
        options.evaluation_set(4.5).read(0)


def test_training_needs_a_whole_scale(tmp_path: Path) -> None:
    options = PairedImageOptions(name="A", dataroot_gt=folder(tmp_path / "gt", (40, 37)), gt_size=20)
    with pytest.raises(InputError, match=r"scale 2\.5 is no whole number"):
        build_dataset(options, scale=2.5, phase="train")
