"""Option files for the tests of their reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import config
from config.checks import Mode
from utils.errors import InputError

TRAIN = """\
name: exp
model_type: SRModel
scale: 2
num_gpu: auto
manual_seed: 3
datasets:
  train:
    name: T
    type: PairedImageDataset
    dataroot_gt: ~/gt
    dataroot_lq: d/lq
    io_backend: {type: disk}
    gt_size: 64
    batch_size_per_gpu: 4
  val_2:
    name: B
    type: PairedImageDataset
    dataroot_gt: b/gt
  val_10:
    name: A
    type: PairedImageDataset
    dataroot_gt: a/gt
network_g:
  type: PlainUSR_ultra
  scale: 2
path:
  pretrain_network_g: ~/w.pth
  resume_state: ~
train:
  optim_g: {type: Adam, lr: 2e-4, betas: [0.9, 0.99]}
  scheduler:
    type: MultiStepLR
    milestones: [25, 40]
    gamma: 0.5
  total_iter: 5e3
  pixel_opt:
    type: L1Loss
val:
  val_freq: !!float 5e3
  save_img: no
  metrics:
    psnr: {type: calculate_psnr, crop_border: 2, test_y_channel: yes}
logger:
  print_freq: 10
  use_tb_logger: true
"""

GAN = """\
name: exp
model_type: RealESRGANModel
scale: 4
num_gpu: 0
l1_gt_usm: true
percep_gt_usm: yes
gan_gt_usm: false
gt_size: 64
datasets:
  train:
    name: T
    type: RealESRGANDataset
    dataroot_gt: d/gt
    gt_size: 64
    batch_size_per_gpu: 12
network_g: {type: PlainUSR_ultra, scale: 4}
network_d: {type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 4}
train:
  ema_decay: 0.9
  optim_g: {type: Adam, lr: 1e-4}
  optim_d: {type: Adam, lr: 2e-4}
  scheduler: {type: MultiStepLR, milestones: [50]}
  total_iter: 100
  pixel_opt: {type: L1Loss}
  gan_opt: {type: GANLoss, gan_type: vanilla, loss_weight: 0.1}
"""

TEST = """\
name: tst
model_type: SRModel
scale: 4
num_gpu: 0
datasets:
  test_2: {name: B, type: PairedImageDataset, dataroot_gt: b/gt}
  test_10: {name: A, type: SingleImageDataset, dataroot_lq: a/lq}
network_g: {type: PlainUSR_ultra, scale: 4}
path: {pretrain_network_g: m.pth, param_key_g: params_ema, strict_load_g: true}
val:
  save_img: true
  suffix: ~
"""


def write(folder: Path, text: str, name: str = "options.yml") -> Path:
    """An option file in a folder."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(path: Path, overrides: Sequence[str] = (), *, mode: Mode = "train") -> list[str]:
    """The lines of the message with which reading fails, without the folder of the file."""
    with pytest.raises(InputError) as caught:
        if mode == "train":
            config.read(path, overrides, mode="train")
        else:
            config.read(path, overrides, mode="test")
    return [line.removeprefix(f"{path.parent}/") for line in str(caught.value).splitlines()]


def line_of(text: str, part: str) -> int:
    """The number of the only line that contains ``part``."""
    (number,) = [number for number, line in enumerate(text.splitlines(), 1) if part in line]
    return number
