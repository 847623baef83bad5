"""Option files of networks for any scale: what contradicts training and evaluation at several scales."""

from __future__ import annotations

from pathlib import Path

import pytest

import config
from tests.config.files import TRAIN, mistakes, write

FILE = """\
name: any
model_type: SRModel
scale: [1, 4]
num_gpu: 0
datasets:
  train: {name: T, type: AnyScaleDataset, dataroot_gt: gt, batch_size_per_gpu: 4}
  val: {name: V, type: AnyScaleDataset, dataroot_gt: gt, dataroot_lq: {2: x2, 2.5: x25}}
network_g:
  {type: ESCLTE, dim: 64, pdim: 16, kernel_size: 13, n_blocks: 5, conv_blocks: 5, window_size: 32, num_heads: 4}
train:
  optim_g: {type: Adam, lr: 2e-4}
  scheduler: {type: MultiStepLR, milestones: [25], gamma: 0.5}
  total_iter: 50
  pixel_opt: {type: L1Loss}
val:
  val_freq: 50
  scales: [2, 2.5, 6]
  metrics: {psnr: {type: calculate_psnr_any_scale, protocol: div2k}}
"""


def test_a_file_as_it_should_be(tmp_path: Path) -> None:
    found = config.read(write(tmp_path, FILE), mode="train")
    assert found.notes == ()
    assert (found.scale, found.largest_scale) == ((1, 4), 4)
    assert found.network_g.arguments["upscaling_factor"] == 4
    assert isinstance(found.network_g.arguments["upscaling_factor"], int)
    assert found.val is not None
    assert found.val.scales == (2, 2.5, 6)


def test_one_scale_that_is_not_whole(tmp_path: Path) -> None:
    found = config.read(write(tmp_path, FILE), ["scale=2.5", "network_g:upscaling_factor=2.5"], mode="train")
    assert found.largest_scale == 2.5
    (note,) = found.notes
    assert note.endswith("scales between 2.5, the largest of the training, and 4 are new to the network")


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (["scale=[4, 1]"], "expected the smaller scale first, got [4, 1]"),
        (["scale=[0.5, 4]"], "expected at least 1, got 0.5"),
        (["scale=[1, 8]"], "expected the largest scale of the training, 8, got 4, the default"),
        (["datasets:train:sample_q=5000"], "sample_q: expected at most 4,096, the pixels of a patch at x1"),
        (["datasets:train:sample_q=~"], "sample_q: expected a number, as the patches of a batch differ in size"),
        (["datasets:train:lq_size=16"], "sample_q: expected at most 256, the pixels of a patch at x1 (lq_size 16)"),
        (["datasets:train:gt_size=256"], "gt_size: leave it out: AnyScaleDataset cuts patches of lq_size (64)"),
        (["train:pixel_opt:type=FFTLoss"], "FFTLoss looks at neighbours, and AnyScaleDataset asks for single pixels"),
        (["train:losses=[{type: WaveletLoss}]"], "WaveletLoss looks at neighbours"),
        (["train:losses=[{type: PerceptualLoss}]"], "PerceptualLoss looks at neighbours"),
        (["train:losses=[{type: L1Loss, target: gt_usm}]"], "single pixels, which cannot be sharpened"),
        (["train:perceptual_opt={type: PerceptualLoss}"], "it looks at whole patches"),
        (["model_type=SRGANModel"], "SRGANModel looks at whole patches, and AnyScaleDataset asks for single pixels"),
        (["network_g={type: PlainUSR_ultra, scale: 4}"], "expected a network for any scale (ESCLTE) to train on"),
        (["val:scales=[]"], "expected each scale once, and at least one, got []"),
        (["val:scales=[2, 2]"], "expected each scale once, and at least one, got [2, 2]"),
        (["val:scales=[2.0000001, 2]"], "expected each scale once, and at least one, got [2, 2]"),
        (["val:scales=[.inf, 2]"], "expected a finite number, got inf"),
        (["scale=[1, .inf]"], "expected a finite number, got inf"),
        (["scale=.inf"], "expected a finite number, got inf"),
        (["datasets:train:color=y"], "networks for any scale see R, G and B; leave the key out"),
        (["tile={tile_size: 64}"], "images are upscaled as a whole at x2.5: leave out tile"),
        (["val:pad_to_window=true"], "images are upscaled as a whole at x2.5: leave out val.pad_to_window"),
        (
            ["datasets:val={name: V, type: PairedImageDataset, dataroot_gt: gt, dataroot_lq: lq}"],
            "it is of one scale, and val.scales names more; choose type AnyScaleDataset",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(tmp_path: Path, edits: list[str], message: str) -> None:
    assert any(message in line for line in mistakes(write(tmp_path, FILE), edits))


@pytest.mark.parametrize("scale", ["2.5", "[1, 4]"])
def test_other_data_sets_take_whole_scales(tmp_path: Path, scale: str) -> None:
    expected = f"expected a whole number; others, and ranges, are for datasets.train.type AnyScaleDataset, got {scale}"
    assert any(expected in line for line in mistakes(write(tmp_path, TRAIN), [f"scale={scale}"]))


def test_scales_are_for_networks_for_any(tmp_path: Path) -> None:
    text = TRAIN.replace("  val_freq:", "  scales: [2, 3]\n  val_freq:")
    (line,) = mistakes(write(tmp_path, text))
    assert line.endswith("PlainUSR_ultra is for one scale; leave the key out, or choose a network for any (ESCLTE)")
