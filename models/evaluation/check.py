"""``--check`` of a test file: build everything that a run needs, read all its images, and write nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from config import describe
from config.schema import TestOptions, TrainOptions, ValOptions
from data import EvalDataset, TrainDataset, build_dataset
from models.distributed import World
from models.evaluation.evaluate import tiling_of, way_of
from models.evaluation.tester import load_network
from utils.errors import InputError
from utils.log import configure_logging, get_logger


def check_testing(options: TestOptions, world: World) -> None:
    """Load the weights, read all images, upscale the first one.

    Raises:
        InputError: something cannot be used.
    """
    log = configure_logging(rank=world.rank).info
    log_options(options)
    datasets = [
        build_dataset(dataset, scale=options.scale, seed=options.manual_seed, phase="test")
        for dataset in options.datasets.values()
    ]
    check_images(datasets)
    network = load_network(options, world.device(options.num_gpu))
    count = sum(parameter.numel() for parameter in network.parameters())
    log(
        "network %s: %s parameters, weights from %s",
        options.network_g.type,
        f"{count:,}",
        options.path.pretrain_network_g,
    )
    for dataset in datasets:
        log("%s: %d images%s", dataset.name, len(dataset), together(options))
    with torch.no_grad():
        lq = datasets[0].read(0).lq[None, :, :32, :32]
        output = network(lq.to(next(network.parameters()).device))
    if not bool(output.isfinite().all()):
        raise InputError(
            f"{options.path.pretrain_network_g}: the output of {options.network_g.type} for {datasets[0].name} is not "
            "finite (NaN or infinity); are these weights sound?"
        )
    log("one patch: %s -> %s", list(lq.shape), list(output.shape))
    log("the check is passed; nothing was written")


def log_options(options: TrainOptions | TestOptions) -> None:
    """Log an option file as it was read, what it is based on, and what has no effect in it."""
    for note in options.notes:
        get_logger().info("%s", note)
    if len(options.files) > 1:
        get_logger().info("%s is based on %s", options.files[0], ", ".join(options.files[1:]))
    get_logger().info("options, as read:\n%s", describe(options))


def check_images(datasets: Iterable[TrainDataset | EvalDataset]) -> None:
    """Read all images.

    Raises:
        InputError: some cannot be used; the message lists all of them.
    """
    problems = [problem for dataset in datasets for problem in dataset.scan()]
    if problems:
        raise InputError("\n  ".join([f"{len(problems)} images cannot be used:", *problems]))


def together(options: TrainOptions | TestOptions) -> str:
    """How images go through the network, for the line that counts them; empty where each goes by itself and whole."""
    val = options.val or ValOptions()
    several = "" if val.batch_size == 1 else f", up to {val.batch_size} of one size at a time"
    return several if tiling_of(val, options.tile) is None else f"{several}; {way_of(val, options.tile)}"
