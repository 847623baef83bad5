"""A folder with tiny pictures and an option file: a training of seconds, for the soak and for the tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from utils.files import make_folder
from utils.seed import random_stream

TRAIN_FILE = """\
name: tiny
model_type: SRModel
scale: 2
num_gpu: 0
manual_seed: 7
datasets:
  train:
    name: Photos
    type: PairedImageDataset
    dataroot_gt: photos/HR
    io_backend: {type: memory}
    gt_size: 24
    use_hflip: true
    use_rot: true
    batch_size_per_gpu: 2
    num_worker_per_gpu: 0
    dataset_enlarge_ratio: 2
  val:
    name: HeldOut
    type: PairedImageDataset
    dataroot_gt: held_out/HR
    io_backend: {type: disk}
network_g: {type: PlainUSR_ultra, n_feat: 8, im_feat: [8, 4], scale: 2}
path: {}
train:
  ema_decay: 0.9
  optim_g: {type: Adam, lr: 2e-3, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [8], gamma: 0.5}
  total_iter: 12
  warmup_iter: -1
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
val:
  val_freq: 4
  save_img: false
  metrics:
    psnr: {type: calculate_psnr, crop_border: 2, test_y_channel: true}
    ssim: {type: calculate_ssim, crop_border: 2, test_y_channel: true}
logger: {print_freq: 1, save_checkpoint_freq: 4, use_tb_logger: false}
"""
DISCRIMINATOR = {
    "model_type: SRModel": (
        "model_type: SRGANModel\nnetwork_d: {type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 4}"
    ),
    "  scheduler:": (
        "  optim_d: {type: Adam, lr: 1e-3, betas: [0.9, 0.99]}\n"
        "  gan_opt: {type: GANLoss, gan_type: vanilla, loss_weight: 0.1}\n  scheduler:"
    ),
}
"""The changes of :data:`TRAIN_FILE` for a discriminator beside the network."""


def changed(text: str, changes: Mapping[str, str]) -> str:
    """A text with changes: what is there -> what takes its place, one after the other.

    Raises:
        ValueError: something is not there.
    """
    for old, new in changes.items():
        if old not in text:
            raise ValueError(f"there is no {old!r} in the text")
        text = text.replace(old, new)
    return text


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth colour picture with edges, uint8 [H,W,3]."""
    random = random_stream(seed)
    y, x = np.mgrid[0:height, 0:width]
    layers = []
    for _ in range(3):
        fy, fx, phase = random.uniform(0.05, 0.5, 3)
        wave = 0.5 + 0.3 * np.sin(fy * y + fx * x + 6 * phase)
        layers.append(np.where((x + 2 * y) % 31 < 9, 1 - wave, wave))
    return (255 * np.stack(layers, -1)).round().clip(0, 255).astype(np.uint8)


def write_pictures(folder: Path) -> None:
    """Pictures to train on, in ``photos/HR``, and to validate on, in ``held_out/HR``."""
    for name, count, first in (("photos", 3, 0), ("held_out", 2, 10)):
        make_folder(folder / name / "HR")
        for i in range(count):
            image = picture(first + i, 40 + 4 * i, 48)
            cv2.imwrite(str(folder / name / "HR" / f"{name}_{i}.png"), image)
