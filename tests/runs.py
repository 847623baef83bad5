"""Small training and test runs for the tests: pictures, option files, commands."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.command import run_command
from utils.seed import random_stream

ROOT = Path(__file__).resolve().parent.parent

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

TEST_FILE = """\
name: tiny_test
model_type: SRModel
scale: 2
num_gpu: 0
manual_seed: 0
datasets:
  test_1:
    name: HeldOut
    type: PairedImageDataset
    dataroot_gt: held_out/HR
    io_backend: {type: disk}
network_g: {type: PlainUSR_ultra, n_feat: 8, im_feat: [8, 4], scale: 2}
path: {pretrain_network_g: experiments/tiny/models/net_g_latest.pth, param_key_g: params_ema}
val:
  save_img: true
  suffix: ~
  bicubic: true
  metrics:
    psnr: {type: calculate_psnr, crop_border: 2, test_y_channel: true}
    ssim: {type: calculate_ssim, crop_border: 2, test_y_channel: true}
"""


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


def workplace(folder: Path) -> Path:
    """A folder with pictures and option files, ready for train.py and test.py."""
    for name, count, first in (("photos", 3, 0), ("held_out", 2, 10)):
        (folder / name / "HR").mkdir(parents=True)
        for i in range(count):
            image = picture(first + i, 40 + 4 * i, 48)
            cv2.imwrite(str(folder / name / "HR" / f"{name}_{i}.png"), image)
    (folder / "train.yml").write_text(TRAIN_FILE)
    (folder / "test.yml").write_text(TEST_FILE)
    return folder


def has_ended(process: int) -> bool:
    """Whether a process has ended, or does so within seconds (Linux)."""
    state = Path(f"/proc/{process}/stat")
    for _ in range(100):
        try:
            if state.read_text().rpartition(")")[2].split()[0] == "Z":  # nobody has asked yet how it ended
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def command(script: str, *arguments: str) -> list[str]:
    """The command line of ``train.py`` or ``test.py`` with arguments."""
    return [sys.executable, str(ROOT / script), *arguments]


def environment() -> dict[str, str]:
    """Variables for a command: one thread, so that two tests side by side do not fight for cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(folder: Path, script: str, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder``; its output and exit code are the caller's to judge."""
    line = command(script, *arguments)
    return subprocess.run(
        line, cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def run_here(script: str, *arguments: str) -> int:
    """Run a command in this process and in the current folder, without the seconds that a new process takes."""
    return run_command(main_of(script), arguments)


def main_of(script: str) -> Callable[[Sequence[str]], int | None]:
    """The function ``main`` of a script; loaded by path, because ``import test`` may find Python's own."""
    spec = importlib.util.spec_from_file_location(f"focalsr_{Path(script).stem}", ROOT / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[Sequence[str]], int | None] = module.main
    return main
