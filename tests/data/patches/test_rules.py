"""LR rules on batches: what is made where, and that it is the same in both places."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from data.degradations import DegradationOptions
from data.degradations.kernels import KERNEL_TYPES, Blur
from data.images.files import to_unit
from data.patches.rules import Degraded, Downsampled, Paired, matlab_bicubic, matlab_bicubic_float
from data.resizing.matlab import MARGIN
from data.samples import PixelBatch, SampleKey

KEYS = [SampleKey(0, position, 0) for position in range(5)]
BLUR = Blur(KERNEL_TYPES, [1.0] * len(KERNEL_TYPES), 0.1, (0.2, 3.0), (0.5, 4.0), (1.0, 2.0))


def batch_of(height: int, width: int, lq: Tensor | None = None) -> PixelBatch:
    gt = torch.randint(
        0, 256, (len(KEYS), 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return PixelBatch(lq, gt, ("a",) * len(KEYS), 0, step=3)


def mean(gt: Tensor, scale: int) -> Tensor:
    return functional.avg_pool2d(to_unit(gt), scale)


def test_paired_patches_stay_as_they_were_cut() -> None:
    batch = batch_of(8, 8, torch.zeros(len(KEYS), 3, 4, 4, dtype=torch.uint8))
    lq, gt = Paired().finish(Paired().prepare(batch, KEYS))
    assert lq is batch.lq
    assert gt is batch.gt


@pytest.mark.parametrize(
    ("downsample", "margin"), [(matlab_bicubic, MARGIN), (matlab_bicubic_float, MARGIN), (mean, 0)]
)
def test_loader_and_device_make_the_same(downsample: Callable[[Tensor, int], Tensor], margin: int) -> None:
    loader, device = Downsampled(downsample, 2, margin), Downsampled(downsample, 2, margin, "device")
    batch = batch_of(16 + 4 * margin, 12 + 4 * margin)
    made, left = loader.prepare(batch, KEYS), device.prepare(batch, KEYS)
    assert made.lq is not None
    assert left.lq is None
    (lq, gt), (other_lq, other_gt) = loader.finish(made), device.finish(left)
    assert lq.shape == (len(KEYS), 3, 8, 6)
    assert gt.shape == (len(KEYS), 3, 16, 12)
    assert lq.equal(other_lq)
    assert gt.equal(other_gt)


def test_the_margin_is_cut_away() -> None:
    batch = batch_of(20, 20)
    _, gt = Downsampled(mean, 2, 2, "device").finish(batch)
    assert gt.equal(batch.gt[..., 4:-4, 4:-4])


def test_large_batches_are_made_in_pieces_that_change_nothing() -> None:
    batch = batch_of(512, 512)  # a low-resolution patch is larger than what is made at a time
    made = Downsampled(mean, 2).prepare(batch, KEYS)
    assert made.lq is not None
    assert made.lq.equal(mean(batch.gt, 2))


def test_degraded_patches_depend_on_seed_key_and_step() -> None:
    batch = batch_of(48, 48)

    def degraded(seed: int, step: int) -> tuple[Tensor, Tensor]:
        rule = Degraded((BLUR, BLUR), 0.8, DegradationOptions(), 24, 2, seed)
        return rule.finish(rule.prepare(batch._replace(step=step), KEYS))

    lq, gt = degraded(1, 3)
    assert lq.shape == (len(KEYS), 3, 12, 12)
    assert gt.shape == (len(KEYS), 3, 24, 24)
    again, _ = degraded(1, 3)
    assert again.equal(lq)
    for seed, step in ((2, 3), (1, 4)):
        assert not degraded(seed, step)[0].equal(lq)
