"""Batches from a pack, and the validation of some images, on the device of torch.device(...)."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch

from archs import build_network
from config.schema import ValOptions
from config.variants import configuration
from data import PairedImageOptions, downscale, write_image
from data.dataset_options import IoBackend
from data.loader import train_batches
from data.prepare.pack_writer import write_pack
from metrics import METRICS
from models import upscale
from models.evaluation.evaluate import evaluate
from scripts.benchmarks.measure import Work
from scripts.benchmarks.pixels import photograph

BATCH, SCALE, PATCH = 16, 4, 256
SIDE, SMALL, IMAGES = 1024, PATCH, 4  # of the images; SMALL for a CPU

_folders: list[tempfile.TemporaryDirectory[str]] = []  # live as long as the process


@functools.cache
def folder(side: int) -> Path:
    """Images of side x side and their LR images, as files and as packs."""
    _folders.append(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    root = Path(_folders[-1].name)
    image = photograph(side, side)
    for number in range(IMAGES):
        turned = np.ascontiguousarray(np.rot90(image, number))
        write_image(root / "hr" / f"{number}.png", turned)
        write_image(root / "lr" / f"{number}.png", downscale(turned, SCALE))
    for kind in ("hr", "lr"):
        write_pack(root / kind, root / f"{kind}.pack")
    return root


def batches(side: int, workers: int) -> Work:
    """Take the next batch of a training, on the device.

    Args:
        side: of the images that patches are cut from.
        workers: processes that cut them.
    """
    device = torch.get_default_device()
    options = PairedImageOptions(
        name="pack", dataroot_gt=folder(side) / "hr.pack", dataroot_lq=folder(side) / "lr.pack", gt_size=PATCH,
        io_backend=IoBackend(type="pack"), batch_size_per_gpu=BATCH, num_worker_per_gpu=workers,
        dataset_enlarge_ratio=BATCH, prefetch_mode="cuda" if device.type == "cuda" else None,
    )  # fmt: skip
    with torch.device("cpu"):  # the loader draws its seeds there
        dataset = options.training_set(SCALE)
        taken = train_batches(dataset, options, stop=1 << 30, device=device)
    return lambda: next(taken)


def validation(side: int, *, scored: bool) -> Work:
    """Read, upscale and score IMAGES images of side x side; or upscale as many alone."""
    device = torch.get_default_device()
    network = build_network(configuration("esc", SCALE)).eval()
    if not scored:
        x = torch.rand(1, 3, side // SCALE, side // SCALE)

        def alone() -> None:
            with torch.inference_mode():
                for _ in range(IMAGES):
                    upscale(network, x)

        return alone
    with torch.device("cpu"):
        images = PairedImageOptions(
            name="images", dataroot_gt=folder(side) / "hr", dataroot_lq=folder(side) / "lr"
        )  # fmt: skip
        dataset = images.evaluation_set(SCALE)
    metrics = {
        name: METRICS[f"calculate_{name}"](crop_border=SCALE, test_y_channel=True)  # type: ignore[call-arg]
        for name in ("psnr", "ssim")
    }
    return lambda: evaluate(network, dataset, ValOptions(metrics=metrics), device=device)
