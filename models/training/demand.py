"""What a training needs of memory: foreseen by arithmetic before it begins, and what would lower it.

A number that was typed wrong, or settings made for a larger machine, would otherwise be found out after minutes of
reading images, or by the system, which ends a process that takes too much without a word.

Shapes: B samples of a batch, C channels, h w low-resolution and H W high-resolution pixels.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import nn

from archs.contract import contract_of
from config.schema import TrainOptions
from data import TrainDataset
from data.datasets.realesrgan import RealESRGANOptions
from data.loader import Batch, batches_ahead
from data.patches.options import PatchOptions
from models.inference.memory import LiveTensors
from models.inference.upscale import evaluation_mode
from models.training.players import can_recompute
from models.training.state import TrainState
from models.training.step import autocast
from utils.env import obtainable_memory
from utils.errors import InputError
from utils.log import get_logger

_MANY_TIMES = 1000  # that one batch shows each sample of an epoch: hardly meant, but one may overfit a single image
_PER_VALUE = 2000  # a network keeps fewer bytes than this for each byte of the batch, or would be measured
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
    if device.type == "cpu":
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
    side = getattr(options.train_dataset, "gt_size", None)
    available = obtainable_memory() if state.device.type == "cpu" else None
    if side is None or available is None or options.train.compile:
        return
    samples = -(-options.train_dataset.batch_size_per_gpu // options.train.accumulate)
    low = side // options.scale
    channels = contract_of(state.generator.network).channels
    if samples * channels * 4 * (side * side + low * low) * _PER_VALUE < available:
        return
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    patches = f"keeps for the gradient of {samples:,} patches of {side} x {side} pixels"
    needs = []
    for (
        name,
        player,
    ) in state.players.items():  # the generator's gradient goes through the discriminator, if there is one
        sides, kind = (low, options.network_g) if name == "g" else (side, options.network_d)
        # The difference of two measurements: what does not grow with the batch (weights in bfloat16) is kept once.
        one, two = (_kept(player.network, torch.zeros(count, channels, sides, sides), options) for count in (1, 2))
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
    training = options.train_dataset
    side = training.gt_size if isinstance(training, PatchOptions) else None
    if side is None:
        return [], []
    size, channels, patch = training.batch_size_per_gpu, 1 if training.color == "y" else 3, f"{side} x {side} pixels"
    cut = training.crop_size if isinstance(training, RealESRGANOptions) else side  # what is degraded is larger
    pair = 4 * channels * (side * side + (side // options.scale) ** 2)  # float32
    host = []
    ahead = min(batches_ahead(training), options.train.total_iter)
    if ahead:
        queue = f", num_prefetch_queue {training.num_prefetch_queue:,}" if training.prefetch_mode == "cpu" else ""
        what = f"{ahead:,} batches ahead (batch_size_per_gpu {size:,}, num_worker_per_gpu {training.num_worker_per_gpu}"
        host.append(Need(ahead * size * 3 * cut * cut, f"{what}{queue})"))
    host.append(Need(dataset.kept_bytes, f"the images of {dataset.name} (io_backend memory)"))
    host.append(Need(8 * dataset.epoch_length, f"the order of {dataset.epoch_length:,} samples of an epoch"))
    on_device = [Need(size * pair, f"a batch (batch_size_per_gpu {size:,}, patches of {patch})")]
    if dataset.pool_size:
        on_device.append(Need(dataset.pool_size * pair, f"the pool (queue_size {dataset.pool_size:,})"))
    return host, on_device


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
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None


def _kept(network: nn.Module, x: torch.Tensor, options: TrainOptions) -> int:
    """Bytes of the tensors that patches [B, C, h, w] leave alive for the backward pass."""
    with torch.no_grad(), evaluation_mode(network):
        network(x)  # tables that are computed once do not count
    live = LiveTensors()
    with torch.enable_grad(), evaluation_mode(network), autocast(options.train.amp, x.device), live:
        output = network(x)
        kept = live.now
    del output
    return kept
