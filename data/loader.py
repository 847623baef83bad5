"""Training batches: prepared in workers or in this process, moved to the device, always the same ones.

Shapes: B batch size, C channels, h w low-resolution and H W high-resolution pixels.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.dataset_options import DatasetOptions
from data.sampler import SampleKey, batch_stream
from data.samples import PixelBatch, TrainDataset
from utils.env import available_cores
from utils.errors import InputError
from utils.log import get_logger

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        lq: low-resolution patches, float32 [B, C, h, w].
        gt: high-resolution patches, float32 [B, C, H, W].
        names: the file of each sample.
        epoch: of the first sample.
    """

    lq: Tensor
    gt: Tensor
    names: tuple[str, ...]
    epoch: int


def train_batches(
    dataset: TrainDataset,
    options: DatasetOptions,
    *,
    start: int = 0,
    stop: int,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
) -> Generator[Batch, None, None]:
    """The batches of iterations ``start + 1`` .. ``stop``, on ``device``.

    Content and order depend on the data set, its seed, the batch size and the place in the stream alone: not on
    workers, prefetching or where a run was resumed. The global random generators are left as they are.

    Images to be kept in memory are decoded, and workers started, before this returns; closing the generator, or
    dropping it, dismisses the workers.

    Args:
        dataset: where the samples come from.
        options: batch size, enlarge ratio, workers, prefetching.
        start: iterations already done.
        stop: iterations in all.
        rank: of this process among those that share the stream.
        world_size: number of these processes.
        device: where the batches are needed.
        channels_last: their memory layout.

    Raises:
        InputError: an image cannot be used, now or while iterating; the message names it, wherever it was read.
    """
    device = torch.device(device)
    dataset.preload()
    keys = batch_stream(
        len(dataset), options.dataset_enlarge_ratio, dataset.seed, options.batch_size_per_gpu,
        start=start, stop=stop, rank=rank, world_size=world_size,
    )  # fmt: skip
    on_gpu = device.type == "cuda"
    if options.prefetch_mode == "cuda" and not on_gpu:
        get_logger().warning(
            "%s: prefetch_mode cuda needs a GPU, but the device is %s; batches are not prefetched", dataset.name, device
        )
    workers = min(options.num_worker_per_gpu, available_cores())
    if workers:
        pixels = _from_workers(dataset, keys, workers, pin=on_gpu and options.pin_memory)
    else:
        pixels = (dataset.collect(batch) for batch in keys)
    if options.prefetch_mode == "cpu":
        pixels = _ahead(pixels, options.num_prefetch_queue)
    place = _Placement(dataset, device, channels_last)
    if options.prefetch_mode == "cuda" and on_gpu:
        return _copied_ahead(pixels, place)
    return (place(batch) for batch in pixels)


class _Placement:
    """Brings a batch to the device and converts it there, as a whole: a quarter of the bytes, one pass."""

    def __init__(self, dataset: TrainDataset, device: torch.device, channels_last: bool) -> None:
        self.dataset, self.device = dataset, device
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, pixels: PixelBatch) -> Batch:
        lq, gt = (
            self.dataset.convert(part.to(self.device, non_blocking=True)).contiguous(memory_format=self.layout)
            for part in (pixels.lq, pixels.gt)
        )
        return Batch(lq, gt, pixels.names, pixels.epoch)


@dataclass(frozen=True)
class _Failure:
    """An InputError on its way out of a worker; as an exception it would arrive with a traceback in its message."""

    message: str


class _Collector(Dataset[PixelBatch | _Failure]):
    """The data set as workers see it: one "index" is the list of keys of a batch."""

    def __init__(self, dataset: TrainDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, keys: Sequence[SampleKey]) -> PixelBatch | _Failure:
        try:
            return self.dataset.collect(keys)
        except InputError as error:
            return _Failure(str(error))


def _from_workers(
    dataset: TrainDataset, keys: Iterator[Sequence[SampleKey]], workers: int, *, pin: bool
) -> Iterator[PixelBatch]:
    loader: DataLoader[PixelBatch | _Failure] = DataLoader(
        _Collector(dataset), batch_size=None, sampler=keys, num_workers=workers, pin_memory=pin,
        collate_fn=_as_it_is, worker_init_fn=_start_worker,
        generator=torch.Generator(),  # without one, a number is drawn from the global generator
    )  # fmt: skip
    # Started here, not by the thread that may ask for the first batch: a process forked from a thread cannot end well.
    return _checked(iter(loader))


def _checked(results: Iterator[PixelBatch | _Failure]) -> Iterator[PixelBatch]:
    try:
        for result in results:
            if isinstance(result, _Failure):
                raise InputError(result.message)
            yield result
    finally:
        del results  # which dismisses the workers; an exception's traceback would keep them waiting


def _as_it_is(item: Item) -> Item:
    return item


def _start_worker(_: int) -> None:
    # Ctrl-C and a batch system's SIGTERM reach every process of a run, but it is the main process that decides, saves
    # and dismisses its workers. Should it be killed, they notice and leave.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None and hasattr(signal, "sigwaitinfo"):  # elsewhere a SIGTERM from anybody ends a worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_leave_when_dismissed, args=(parent.pid,), daemon=True).start()
    cv2.setNumThreads(0)  # its thread pool does not survive a fork, and the cores are taken


def _leave_when_dismissed(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _ahead(source: Iterator[Item], depth: int) -> Iterator[Item]:
    """The items of ``source``, of which a thread prepares ``depth`` ahead."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, source, None) for _ in range(depth))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, source, None))
            yield item


def _copied_ahead(source: Iterator[PixelBatch], place: _Placement) -> Generator[Batch, None, None]:
    """Batches on a GPU; the next one is copied and converted on a stream of its own while one is being used."""
    copying = torch.cuda.Stream(place.device)

    def fetch() -> Batch | None:
        pixels = next(source, None)
        if pixels is None:
            return None
        pinned = pixels._replace(lq=pixels.lq.pin_memory(), gt=pixels.gt.pin_memory())
        with torch.cuda.stream(copying):
            return place(pinned)

    batch = fetch()
    while batch is not None:
        using = torch.cuda.current_stream(place.device)
        using.wait_stream(copying)
        for tensor in (batch.lq, batch.gt):
            tensor.record_stream(using)  # else its memory could be given away while it is still read
        following = fetch()
        yield batch
        batch = following
