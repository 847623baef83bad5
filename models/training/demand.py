"""What a training needs of memory: foreseen by arithmetic before it begins, and what would lower it.

A number that was typed wrong, or settings made for a larger machine, would otherwise be found out after minutes of
reading images, or by the system, which ends a process that takes too much without a word.

Shapes: B samples of a batch, C channels, h w low-resolution and H W high-resolution pixels, Q points.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from archs.contract import contract_of
from config.schema import TrainOptions
from data import AnyScaleOptions, Queries, TrainDataset
from data.datasets.realesrgan import RealESRGANOptions
from data.loader import Batch, batches_ahead
from data.patches.options import PatchOptions
from models.inference.memory import LiveTensors
from models.inference.upscale import evaluation_mode
from models.training.players import can_recompute
from models.training.state import TrainState
from models.training.step import autocast, output_of
from utils.device_memory import device_memory
from utils.devices import abilities
from utils.env import obtainable_memory
from utils.errors import InputError
from utils.log import get_logger

_MANY_TIMES = 1000  # that one batch shows each sample of an epoch: hardly meant, but one may overfit a single image
_PER_VALUE = 2000  # a network keeps fewer bytes than this for each byte of the batch, or would be measured
_PER_POINT = 8  # more, of what is kept for the gradient of a point: it is made of four low-resolution pixels
_NAMED = 0.05  # parts of the demand that are smaller are not named


class Need(NamedTuple):
    """Something that takes memory.

    Attributes:
        size: bytes, at least.
        what: the options that decide about it.
    """

    size: int
    what: str


def check_demand(options: TrainOptions, device: torch.device, dataset: TrainDataset) -> None:
    """Refuse a training whose batches, pools and queues cannot fit, before anything is read for it.

    What is counted is less than what a training takes: that it passes does not say that it fits. A batch that shows
    each image absurdly often is a warning.

    Args:
        options: of the training.
        device: where it computes.
        dataset: its images.

    Raises:
        InputError: it cannot fit.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun; each has its own
    host, on_device = _needs(options, dataset)
    if abilities(device).in_main_memory:
        host += on_device
    else:
        _refuse_if_more(on_device, _size_of(device), f"memory of {device}")
    _refuse_if_more([Need(ranks * need.size, need.what) for need in host], obtainable_memory(), "memory")
    _check_batch(options, dataset)


def check_activations(state: TrainState, options: TrainOptions) -> None:
    """Refuse a training on the CPU whose activations cannot fit, measured on one patch.

    On a GPU the allocator says so without harm; on the CPU the system may end the process instead. Nothing is measured
    where the batch is far too small for that, or where a compiler decides what is kept.

    Raises:
        InputError: they cannot fit.
    """
    sample = _sample_of(options)
    available = obtainable_memory() if abilities(state.device).in_main_memory else None
    if sample is None or available is None or options.train.compile:
        return
    samples = -(-options.train_dataset.batch_size_per_gpu // options.train.accumulate)
    channels = contract_of(state.generator.network).channels
    values = sample.low**2 + sample.high * (_PER_POINT if sample.points else 1)
    if samples * channels * 4 * values * _PER_VALUE < available:
        return
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    patches = f"keeps for the gradient of {samples:,} patches of {sample.words}"
    needs = []
    for name, player in state.players.items():  # the generator's gradient goes through a discriminator too
        seen, kind = (sample, options.network_g) if name == "g" else (sample.of_output, options.network_d)
        # The difference of two measurements: what does not grow with the batch (weights in bfloat16) is kept once.
        one, two = (_kept(player.network, _blank(seen, count, channels), options) for count in (1, 2))
        needs.append(Need(ranks * (one + (samples - 1) * (two - one)), f"what {kind.type if kind else name} {patches}"))
    _refuse_if_more(needs, available, "memory", batch_advice(options))


def batch_advice(options: TrainOptions) -> str:
    """What lowers the memory of an iteration."""
    train = options.train
    recomputes = can_recompute(options.network_g.type) and not train.checkpoint_activations
    return "; ".join([
        *([] if options.relativistic else [f"train.accumulate: {2 * train.accumulate} (now {train.accumulate})"]),
        *([] if train.amp else ["train.amp: bf16"]),
        *(["train.checkpoint_activations: true"] if recomputes else []),
        "a smaller batch_size_per_gpu or gt_size",
    ])  # fmt: skip


def data_advice(options: TrainOptions) -> str:
    """What lowers the memory of the data."""
    training = options.train_dataset
    workers, queue = training.num_worker_per_gpu, training.num_prefetch_queue
    return "; ".join([
        *([f"fewer num_worker_per_gpu (now {workers})"] if workers else []),
        *([f"a smaller num_prefetch_queue (now {queue})"] if training.prefetch_mode == "cpu" and queue > 1 else []),
        *(["io_backend: {type: pack} or disk"] if training.io_backend.type == "memory" else []),
        "a smaller batch_size_per_gpu or gt_size",
    ])  # fmt: skip


def of_batch(options: TrainOptions, batch: Batch) -> str:
    """How large the work of an iteration is, for messages."""
    height, width = batch.lq.shape[-2:]
    precision = options.train.amp or "float32"
    return f"batch {len(batch)}, patches of {height} x {width} low-resolution pixels, {precision}"


def _needs(options: TrainOptions, dataset: TrainDataset) -> tuple[list[Need], list[Need]]:
    """What the host's memory has to hold at least, and what the device's."""
    training, sample = options.train_dataset, _sample_of(options)
    if sample is None:
        return [], []
    size, channels = training.batch_size_per_gpu, 1 if training.color == "y" else 3
    pair = 4 * channels * (sample.high + sample.low**2)  # float32
    host = []
    ahead = min(batches_ahead(training), options.train.total_iter)
    if ahead:
        queue = f", num_prefetch_queue {training.num_prefetch_queue:,}" if training.prefetch_mode == "cpu" else ""
        what = f"{ahead:,} batches ahead (batch_size_per_gpu {size:,}, num_worker_per_gpu {training.num_worker_per_gpu}"
        host.append(Need(ahead * size * sample.prepared, f"{what}{queue})"))
    host.append(Need(dataset.kept_bytes, f"the images of {dataset.name} (io_backend memory)"))
    host.append(Need(8 * dataset.epoch_length, f"the order of {dataset.epoch_length:,} samples of an epoch"))
    on_device = [Need(size * pair, f"a batch (batch_size_per_gpu {size:,}, patches of {sample.words})")]
    if dataset.pool_size:
        on_device.append(Need(dataset.pool_size * pair, f"the pool (queue_size {dataset.pool_size:,})"))
    return host, on_device


class _SampleSize(NamedTuple):
    """How large one sample of a training is.

    Attributes:
        low: side of the low-resolution patch.
        high: high-resolution pixels, or points.
        prepared: bytes, as it waits for its turn.
        words: the high-resolution side, for messages.
        points: whether single points are asked for.
    """

    low: int
    high: int
    prepared: int
    words: str
    points: bool = False

    @property
    def of_output(self) -> _SampleSize:
        """What a discriminator sees of it."""
        return self._replace(low=math.isqrt(self.high))


def _sample_of(options: TrainOptions) -> _SampleSize | None:
    """The size of a sample; None where the data set does not tell."""
    training = options.train_dataset
    if isinstance(training, AnyScaleOptions):
        low = training.lq_size
        high = training.sample_q or round(low * options.largest_scale) ** 2
        words = f"{low} x {low} low-resolution pixels (lq_size) and {high:,} points"
        return _SampleSize(low, high, 3 * low * low + 7 * high, words, points=True)  # 8-bit colours, 32-bit places
    side = training.gt_size if isinstance(training, PatchOptions) else None
    if side is None:
        return None
    cut = training.crop_size if isinstance(training, RealESRGANOptions) else side  # what is degraded is larger
    return _SampleSize(int(side // options.largest_scale), side * side, 3 * cut * cut, f"{side} x {side} pixels")


def _blank(sample: _SampleSize, count: int, channels: int) -> Batch:
    """A batch of so many black samples."""
    lq = torch.zeros(count, channels, sample.low, sample.low)
    batch = Batch(lq, {}, (sample.high, 1), ("",) * count, 0)
    queries = Queries(torch.zeros(count, sample.high, 2), torch.full((count, 2), 2 / sample.low))
    return replace(batch, queries=queries) if sample.points else batch


def _check_batch(options: TrainOptions, dataset: TrainDataset) -> None:
    size, epoch = options.train_dataset.batch_size_per_gpu, dataset.epoch_length
    if size > _MANY_TIMES * epoch:
        get_logger().warning(
            "%s: batch_size_per_gpu %s shows each of the %s samples of an epoch %s times in one batch",
            dataset.name, f"{size:,}", f"{epoch:,}", f"{size // epoch:,}",
        )  # fmt: skip


def _refuse_if_more(needs: list[Need], free: int | None, where: str, helps: str | None = None) -> None:
    total = sum(need.size for need in needs)
    if free is None or total <= free:
        return
    largest = sorted((need for need in needs if need.size > _NAMED * total), key=lambda need: -need.size)
    parts = ", ".join(f"{need.what}: {_gib(need.size)}" for need in largest)
    advice = helps or "smaller numbers there"
    raise InputError(
        f"the {where} cannot hold this training, which needs at least {_gib(total)}, and there are {_gib(free)}: "
        f"{parts}. What helps: {advice}"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _size_of(device: torch.device) -> int | None:
    """All of its bytes: those that others use now may be free when they are needed."""
    memory = device_memory(device)
    return None if memory is None else memory.total


def _kept(network: nn.Module, batch: Batch, options: TrainOptions) -> int:
    """Bytes of the tensors that a batch leaves alive for the backward pass."""
    with torch.no_grad(), evaluation_mode(network):
        output_of(network, batch)  # tables that are computed once do not count
    live = LiveTensors()
    with torch.enable_grad(), evaluation_mode(network), autocast(options.train.amp, batch.lq.device), live:
        output = output_of(network, batch)
        kept = live.now
    del output
    return kept
