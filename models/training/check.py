"""``--check``: build everything that a run needs, read all its images, say what it would do, and write nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch.utils.flop_counter import FlopCounterMode

from config import describe
from config.schema import TestOptions, TrainOptions
from data import EvalDataset, TrainDataset, build_dataset
from data.loader import Batch, train_batches
from data.patches.options import PatchOptions
from models.distributed import World
from models.evaluation.tester import load_network
from models.training.batch_limit import find_largest_batch
from models.training.loop import describe_run, prepare_state, together, training_set, validation_sets
from models.training.state import TrainState
from models.training.step import train_step
from utils.env import peak_memory
from utils.errors import InputError
from utils.log import configure_logging, get_logger
from utils.progress import clock
from utils.seed import seed_everything

_MEASURED = 3  # iterations that are timed


def check_training(options: TrainOptions, world: World, *, largest_batch: bool = False) -> None:
    """Everything up to the first iterations, which are done and forgotten.

    Args:
        options: what would be trained.
        world: the processes that would train.
        largest_batch: find out how large a batch could be.

    Raises:
        InputError: something cannot be used; images that cannot be read or do not pair are all listed.
    """
    log = configure_logging(rank=world.rank).info
    _tell_options(options)
    dataset = training_set(options)
    held_out = validation_sets(options)
    training = options.train_dataset
    if isinstance(training, PatchOptions) and training.on_error == "skip":
        _tell_left_out(dataset)
        _scan(held_out)
    else:
        _scan((dataset, *held_out))
    seed_everything(options.manual_seed)
    state = prepare_state(options, world.device(options.num_gpu))
    describe_run(options, state.network, dataset, held_out)
    batches = train_batches(
        dataset, options.train_dataset, stop=1, device=state.device, channels_last=options.channels_last
    )
    batch = next(batches)
    log("one batch: lq %s, gt %s", list(batch.lq.shape), list(batch.gt.shape))
    state.network.train()
    result = train_step(state, batch, options)
    losses = ", ".join(f"{name} {float(value):.4e}" for name, value in result.losses.items())
    log("one iteration: %s, gradient norm %.3e, lr %.3e", losses, float(result.grad_norm or 0.0), result.lr[0])
    _measure(state, batch, options)
    if largest_batch:
        most, refused = find_largest_batch(state, batch, options)
        bound = "larger ones were not tried" if refused is None else f"{refused} does not fit"
        log("largest batch in this memory: batch_size_per_gpu %d (%s)", most, bound)
    log("the check is passed; nothing was written")


def _measure(state: TrainState, batch: Batch, options: TrainOptions) -> None:
    """Say what an iteration costs: arithmetic, memory, time, and how long the run would take at that."""
    log = get_logger().info
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        state.network(batch.lq[:1])
    pixels = batch.lq.shape[-2] * batch.lq.shape[-1]
    work = counter.get_total_flops() / 2
    log("arithmetic: %.3g multiply-adds per patch, %.3g per low-resolution pixel", work, work / pixels)
    wait = torch.cuda.synchronize if state.device.type == "cuda" else _nothing
    wait()
    started = time.perf_counter()
    for _ in range(_MEASURED):
        train_step(state, batch, options)
    wait()
    seconds = (time.perf_counter() - started) / _MEASURED
    memory = torch.cuda.max_memory_allocated(state.device) if state.device.type == "cuda" else peak_memory()
    total = seconds * options.train.total_iter
    log(
        "speed: %.3f s per iteration without waiting for data, %.1f images/s, %s for %s iterations; memory so far: "
        "%.2f GiB", seconds, len(batch.lq) / seconds, clock(total), f"{options.train.total_iter:,}", memory / 2**30,
    )  # fmt: skip


def _nothing() -> None:
    """The CPU is not waited for."""


def check_testing(options: TestOptions, world: World) -> None:
    """Load the weights, read all images, upscale the first one.

    Raises:
        InputError: something cannot be used.
    """
    log = configure_logging(rank=world.rank).info
    _tell_options(options)
    datasets = [
        build_dataset(dataset, scale=options.scale, seed=options.manual_seed, phase="test")
        for dataset in options.datasets.values()
    ]
    _scan(datasets)
    network = load_network(options, world.device(options.num_gpu))
    count = sum(parameter.numel() for parameter in network.parameters())
    log(
        "network %s: %s parameters, weights from %s",
        options.network_g.type,
        f"{count:,}",
        options.path.pretrain_network_g,
    )
    for dataset in datasets:
        log("%s: %d images%s", dataset.name, len(dataset), together(options.val))
    with torch.no_grad():
        lq = datasets[0].read(0).lq
        shape = list(network(lq[None, :, :32, :32].to(next(network.parameters()).device)).shape)
    log("one patch: %s -> %s", list(lq[None, :, :32, :32].shape), shape)
    log("the check is passed; nothing was written")


def _tell_options(options: TrainOptions | TestOptions) -> None:
    for note in options.notes:
        get_logger().info("%s", note)
    if len(options.files) > 1:
        get_logger().info("%s is based on %s", options.files[0], ", ".join(options.files[1:]))
    get_logger().info("options, as read:\n%s", describe(options))


def _tell_left_out(dataset: TrainDataset) -> None:
    """Say which images training would leave out."""
    problems = dataset.scan()
    for problem in problems:
        get_logger().warning("%s: would be left out: %s", dataset.name, problem)
    if len(problems) == len(dataset):
        raise InputError(f"{dataset.name}: none of its {len(dataset)} images can be used; see the messages above")


def _scan(datasets: Iterable[TrainDataset | EvalDataset]) -> None:
    problems = [problem for dataset in datasets for problem in dataset.scan()]
    if problems:
        raise InputError("\n  ".join([f"{len(problems)} images cannot be used:", *problems]))
