"""The trainer's loop against the bare minimum: what loading, logging, checking and counting cost in an iteration."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from archs import build_network
from config import read
from config.command import parse_command
from data import write_image
from data.images.files import read_image
from models.distributed import World
from models.training.ema import make_ema, tensors_of, update_ema
from models.training.loop import train_until
from models.training.run import opened
from scripts.benchmarks.measure import Comparison, Side, Work
from scripts.benchmarks.networks import U
from scripts.prepare_demo_data import TRAINING, package_folder
from utils.signals import StopFlag

STEPS = 20  # iterations of a turn, one of which is logged; option files log one in 100
BATCH, PATCH = 4, 48

_OPTIONS = f"""\
name: overhead
model_type: SRModel
scale: 4
num_gpu: {{gpus}}
manual_seed: 0
datasets:
  train:
    name: photographs
    type: PairedImageDataset
    dataroot_gt: {{images}}
    io_backend: {{{{type: memory}}}}
    gt_size: {4 * PATCH}
    use_hflip: true
    use_rot: true
    batch_size_per_gpu: {BATCH}
    num_worker_per_gpu: {{workers}}
    dataset_enlarge_ratio: 100
    prefetch_mode: {{prefetch}}
network_g: {{network}}
path: {{{{experiments_root: {{folder}}}}}}
train:
  ema_decay: 0.999
  optim_g: {{{{type: Adam, lr: 5e-4, betas: [0.9, 0.99]}}}}
  scheduler: {{{{type: MultiStepLR, milestones: [500000]}}}}
  total_iter: 1000000
  pixel_opt: {{{{type: L1Loss}}}}
logger: {{{{print_freq: {STEPS}, save_checkpoint_freq: 1000000, use_tb_logger: false}}}}
"""
_open = contextlib.ExitStack()  # runs that live as long as the process


def comparisons() -> list[Comparison]:
    """One row."""
    return [
        Comparison(
            "train/loop_overhead",
            f"PlainUSR-U x4, {STEPS} iterations, {BATCH} x 3 x {PATCH} x {PATCH}, float32",
            Side("forward, backward, Adam, average", bare_loop),
            Side("train.py's loop, images in memory", trainer_loop, keeps_memory="training"),
            memory=False,
        )
    ]


def bare_loop(steps: int = STEPS) -> Work:
    """The least that so many iterations of such a training do, on one batch."""
    network = build_network(U).train()
    averages, values = tensors_of(make_ema(network)), tensors_of(network)
    lq, gt = torch.rand(BATCH, 3, PATCH, PATCH), torch.rand(BATCH, 3, 4 * PATCH, 4 * PATCH)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4, betas=(0.9, 0.99), fused=True)

    def work() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            functional.l1_loss(network(lq), gt).backward()
            optimizer.step()
            update_ema(averages, values, 0.999)

    return work


def trainer_loop(steps: int = STEPS, workers: int = 0) -> Work:
    """All that ``train.py`` does in so many iterations that neither validate nor save.

    Args:
        steps: of one call, which starts the workers.
        workers: processes that cut the patches. A thread that does it shares Python with the one that gives a GPU its
            work, and that is all that the latter does.
    """
    filled = _OPTIONS.replace("{workers}", str(workers)).replace("{prefetch}", "cuda" if workers else "cpu")
    return loop_of(filled, steps)


def loop_of(template: str, steps: int, prepare: Callable[[Path], object] | None = None) -> Work:
    """Iterations of ``train.py``.

    Args:
        template: an option file, with fields for the images, a folder for all else, the network and the GPUs.
        steps: iterations of one call.
        prepare: writes into the folder what else the option file names.
    """
    folder = kept_folder()
    for name in TRAINING:
        write_image(folder / "images" / name, read_image(package_folder() / name))
    if prepare is not None:
        prepare(folder)
    network = "{" + ", ".join(f"{key}: {value}" for key, value in U.items()) + "}"
    gpus = 1 if torch.get_default_device().type != "cpu" else 0
    text = template.format(images=folder / "images", folder=folder, network=network, gpus=gpus)
    (folder / "train.yml").write_text(text)
    options = read(folder / "train.yml", (), mode="train")
    with torch.device("cpu"):
        training = opened(options, parse_command(["-opt", str(folder / "train.yml")], "train"), World(), StopFlag())
        run, state, dataset = _open.enter_context(training)

    def work() -> None:
        train_until(state.step + steps, run, state, dataset)

    return work


def kept_folder() -> Path:
    """A new folder that lives as long as the process."""
    return Path(_open.enter_context(tempfile.TemporaryDirectory()))
