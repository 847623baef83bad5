"""Training patches: how fast they come out of each kind of storage, in one process.

High-resolution images of 2040 x 1400 pixels are laid out of the photographs that scikit-image brings; a sample is a
random patch of 256 x 256 pixels with its low-resolution one at x4.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch

from data import PairedImageOptions, SampleKey, build_dataset, downscale, write_image
from data.dataset_options import IoBackend
from data.images.files import Pixels, read_image
from data.loader import train_batches
from data.prepare.lmdb_writer import write_lmdb
from data.prepare.pack_writer import write_pack
from data.prepare.subimages import Grid, cut_subimages
from scripts.benchmarks.measure import Comparison, Side, Work
from scripts.prepare_demo_data import TRAINING, package_folder

HEIGHT, WIDTH, SCALE, PATCH = 1400, 2040, 4, 256
IMAGES, SAMPLES = 2, 8
STREAM = 96  # samples that workers prepare: starting them and the last one's end count for little
SHARED = "FOCALSR_BENCHMARK_DATA"  # a folder that several processes of one run have in common; empty at first

Backend = Literal["disk", "lmdb", "pack"]
_STORAGE: dict[Backend, str] = {"disk": "whole PNG files", "lmdb": "LMDB of 480-pixel sub-images", "pack": "pack"}
_NAMES = {"disk": "png"}
_BATCHES: dict[Backend, int] = {"disk": 4, "lmdb": 24, "pack": 200}  # some seconds, beside which a start is little
_PLACES: dict[Literal["loader", "device"], str] = {"loader": "LR made in the loader", "device": "LR left to the device"}
_folders: list[tempfile.TemporaryDirectory[str]] = []  # live as long as the process


def comparisons() -> list[Comparison]:
    """Storage, low-resolution on the fly, workers."""
    work = (
        f"{SAMPLES} patches of {PATCH} x {PATCH} and {PATCH // SCALE} x {PATCH // SCALE} "
        f"from images of {HEIGHT} x {WIDTH}, one thread"
    )
    found = [
        Comparison("data/pack_png", work, _stored("disk"), _stored("pack")),
        Comparison("data/pack_lmdb", work, _stored("lmdb"), _stored("pack")),
    ]
    for backend in _STORAGE:
        name = _NAMES.get(backend, backend)
        found += [
            Comparison(
                f"data/lr_{'on_the_fly' if place == 'loader' else 'on_device'}_{name}", work,
                _stored(backend), Side(f"{_STORAGE[backend]}, {how}", _patches(backend, place)),
                quick=backend == "pack",
            )
            for place, how in _PLACES.items()
        ]  # fmt: skip
    scaling = Comparison(
        "data/two_workers", f"{STREAM} patches from PNG files",
        Side("one worker", lambda: workers(1)), Side("two workers", lambda: workers(2)), quick=False, memory=False,
    )  # fmt: skip
    for backend in _STORAGE:
        stream = f"{_BATCHES[backend]} batches of {SAMPLES} such patches, prepared by one process for another"
        found.append(
            Comparison(
                f"data/one_worker_lr_{_NAMES.get(backend, backend)}", stream,
                Side(_STORAGE[backend], functools.partial(_streams, backend, made=False)),
                Side(f"{_STORAGE[backend]}, LR made by the worker", functools.partial(_streams, backend, made=True)),
                quick=False, memory=False,
            )
        )  # fmt: skip
    return [*found, scaling]


def _stored(backend: Backend) -> Side:
    return Side(_STORAGE[backend], _patches(backend, None))


def _patches(backend: Backend, place: Literal["loader", "device"] | None) -> Callable[[], Work]:
    if place is None:
        return lambda: patches(backend)
    return lambda: patches(backend, made=True, lr_on=place)


def mosaic(number: int) -> Pixels:
    """An image of HEIGHT x WIDTH laid out of photographs, each one another way."""
    pictures = [read_image(package_folder() / name) for name in TRAINING]
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    top, turn = 0, number
    while top < HEIGHT:
        left, height = 0, 470
        while left < WIDTH:
            picture = pictures[turn % len(pictures)]
            turn += 1
            part = picture[:height, : WIDTH - left][: HEIGHT - top]
            canvas[top : top + part.shape[0], left : left + part.shape[1]] = part[:, :: -1 if turn % 2 else 1]
            left += part.shape[1]
        top += height
    return canvas


@functools.cache
def shared_folder() -> Path:
    """What the processes of this run have in common; of a process by itself, a folder of its own."""
    given = os.environ.get(SHARED)
    if given is None:
        _folders.append(tempfile.TemporaryDirectory())
    return Path(given or _folders[-1].name)


def folder() -> Path:
    """High- and low-resolution images in every kind of storage; what another process of this run has made is used."""
    root = shared_folder()
    if (root / "complete").exists():
        return root
    for number in range(IMAGES):
        image = mosaic(number)
        write_image(root / "hr" / f"{number}.png", image)
        write_image(root / "lr" / f"{number}.png", downscale(image, SCALE))
    for side, factor in (("hr", 1), ("lr", SCALE)):
        write_pack(root / side, root / f"{side}.pack")
        cut_subimages(root / side, root / f"{side}_sub", Grid(480 // factor, 240 // factor))
        write_lmdb(root / f"{side}_sub", root / f"{side}.lmdb")
    (root / "complete").touch()
    return root


def patches(backend: Backend, *, made: bool = False, lr_on: Literal["loader", "device"] = "loader") -> Work:
    """Collect a batch; ``made``: there are no low-resolution images."""
    dataset = build_dataset(_options(backend, made, lr_on), scale=SCALE, phase="train")
    keys = [SampleKey(0, i, (i * 7) % len(dataset)) for i in range(SAMPLES)]
    return in_one_thread(lambda: dataset.collect(keys))


def _options(
    backend: Backend, made: bool, lr_on: Literal["loader", "device"] = "loader", workers: int = 0
) -> PairedImageOptions:
    suffix = "" if backend == "disk" else f".{backend}"
    return PairedImageOptions(
        name="bench", dataroot_gt=folder() / f"hr{suffix}", dataroot_lq=None if made else folder() / f"lr{suffix}",
        gt_size=PATCH, io_backend=IoBackend(type=backend), lr_on=lr_on, batch_size_per_gpu=SAMPLES,
        num_worker_per_gpu=workers,
    )  # fmt: skip


def _streams(backend: Backend, *, made: bool) -> Work:
    """Start a process, and take the batches that it prepares."""
    options = _options(backend, made, workers=1)
    dataset = build_dataset(options, scale=SCALE, phase="train")
    stop = _BATCHES[backend]
    return in_one_thread(lambda: [batch.epoch for batch in train_batches(dataset, options, stop=stop)])


def in_one_thread(work: Work) -> Work:
    """The work as a worker of a loader does it, in one thread of torch and of OpenCV."""

    def alone() -> object:
        threads, others = torch.get_num_threads(), cv2.getNumThreads()
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        try:
            return work()
        finally:
            torch.set_num_threads(threads)
            cv2.setNumThreads(others)

    return alone


def workers(count: int) -> Work:
    """Start so many processes, and take the batches that they prepare; this one keeps to one thread."""
    options = PairedImageOptions(
        name="bench", dataroot_gt=folder() / "hr", dataroot_lq=folder() / "lr", gt_size=PATCH, batch_size_per_gpu=1,
        num_worker_per_gpu=count,
    )  # fmt: skip
    dataset = build_dataset(options, scale=SCALE, phase="train")
    return in_one_thread(lambda: [batch.epoch for batch in train_batches(dataset, options, stop=STREAM)])
