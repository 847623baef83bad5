"""Images: resizing, patches, scores."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from data import PairedImageOptions, SampleKey, build_dataset, imresize, write_image
from data.dataset_options import IoBackend
from data.resizing.matlab import downscale_windows
from metrics import calculate_ssim
from ops.pixels.imresize import cubic
from scripts.benchmarks.data import in_one_thread
from scripts.benchmarks.measure import Comparison, Side, Work
from scripts.benchmarks.windows import with_backend
from utils.seed import random_stream

HEIGHT, WIDTH = 376, 500  # of what is resized by the loop

_folders: list[tempfile.TemporaryDirectory[str]] = []  # live as long as the process


def photograph(height: int, width: int) -> NDArray[np.uint8]:
    """Something like a photograph: smooth, with texture, uint8 [H,W,3]."""
    random = random_stream(height, width)
    coarse = random.random((height // 40 + 2, width // 40 + 2, 3)).astype(np.float32)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = random.standard_normal((height, width, 3), dtype=np.float32)
    return (255 * np.clip(image + 0.05 * noise, 0, 1)).astype(np.uint8)


def comparisons() -> list[Comparison]:
    """Resizing, patches, SSIM."""
    return [
        Comparison(
            "data/imresize_x4",
            f"{HEIGHT} x {WIDTH} x 3 by 1/4, float32, one thread",
            Side("a Python loop over output rows, then columns", lambda: loop(HEIGHT, WIDTH)),
            Side("imresize", lambda: ours(HEIGHT, WIDTH)),
        ),
        Comparison(
            "data/imresize_area",
            "1400 x 2040 x 3 by 1/4, float32, one thread",
            Side("cv2.INTER_AREA (another kernel)", lambda: _area(1400, 2040)),
            Side("imresize", lambda: ours(1400, 2040)),
        ),
        Comparison(
            "data/downscale_patches",
            "16 x 3 patches of 256 x 256 and their surroundings by 1/4, 8 bit, one thread",
            Side("PyTorch's operators", lambda: _patches_downscaled("reference")),
            Side("compiled kernel", lambda: _patches_downscaled("auto")),
        ),
        Comparison(
            "data/patches",
            "16 patches of 256 x 256 and 64 x 64 from 1400 x 2040 PNG",
            Side("disk", lambda: _patches("disk")),
            Side("memory", lambda: _patches("memory")),
            quick=False,
        ),
        Comparison(
            "metrics/ssim",
            "512 x 512 luminance",
            Side("scikit-image", _ssim_skimage),
            Side("calculate_ssim", _ssim_ours),
        ),
    ]


def _unit(height: int, width: int) -> NDArray[np.float32]:
    return photograph(height, width).astype(np.float32) / np.float32(255)


def ours(height: int, width: int) -> Work:
    """``imresize`` of an image by 1/4, in one thread."""
    image = _unit(height, width)
    return in_one_thread(lambda: imresize(image, 0.25))


def _patches_downscaled(backend: str) -> Work:
    windows = torch.from_numpy(random_stream(5).integers(0, 256, (16, 3, 272, 272), dtype=np.uint8))
    return with_backend(in_one_thread(lambda: downscale_windows(windows, 4, "last")), backend)


def _area(height: int, width: int) -> Work:
    image = _unit(height, width)
    return in_one_thread(lambda: cv2.resize(image, (width // 4, height // 4), interpolation=cv2.INTER_AREA))


def loop(height: int, width: int) -> Work:
    """As the rule is usually written down: for each output row its taps and a weighted sum, then for each column."""
    image = _unit(height, width)

    def along(values: NDArray[np.float32], length: int) -> NDArray[np.float32]:
        result = np.empty((length // 4, *values.shape[1:]), np.float32)
        for row in range(length // 4):
            centre = (row + 1) * 4 + 0.5 * (1 - 4)
            places = np.floor(centre - 8) + np.arange(18)
            taps = cubic((centre - places) / 4)
            inside = (places.astype(np.int64) - 1) % (2 * length)  # mirrored at the borders
            inside = np.where(inside < length, inside, 2 * length - 1 - inside)
            result[row] = np.tensordot((taps / taps.sum()).astype(np.float32), values[inside], 1)
        return result

    def work() -> NDArray[np.float32]:
        down = along(image, height)
        return along(down.transpose(1, 0, 2), width).transpose(1, 0, 2)

    return work


def _patches(backend: str) -> Work:
    holder = tempfile.TemporaryDirectory()
    _folders.append(holder)
    for i in range(2):
        write_image(Path(holder.name) / f"{i}.png", photograph(1400, 2040 + i))
    options = PairedImageOptions(
        name="bench", dataroot_gt=Path(holder.name), gt_size=256, io_backend=IoBackend(type=backend)  # type: ignore[arg-type]
    )  # fmt: skip
    dataset = build_dataset(options, scale=4, phase="train")
    dataset.preload()
    keys = [SampleKey(0, i, i % 2) for i in range(16)]
    return lambda: dataset.collect(keys)


def _luminances() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    image = photograph(512, 512)[..., 0].astype(np.float64)
    return image, np.clip(image + random_stream(3).normal(0, 5, image.shape), 0, 255)


def _ssim_skimage() -> Work:
    one, two = _luminances()
    return lambda: structural_similarity(  # type: ignore[no-untyped-call]
        one, two, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )


def _ssim_ours() -> Work:
    one, two = _luminances()
    return lambda: calculate_ssim(one[..., None], two[..., None], crop_border=0)
