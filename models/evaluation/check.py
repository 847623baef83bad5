"""``--check`` of a test file: build everything that a run needs, read all its images, and write nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging import LogRecord

import torch

from config import describe
from config.schema import TestOptions, TrainOptions, ValOptions
from data import EvalDataset, TrainDataset
from data.images.faults import fault_lines
from models.distributed import World
from models.evaluation.evaluate import tiling_of, way_of
from models.evaluation.sets import evaluation_sets
from models.evaluation.tester import arithmetic_for, load_network, log_network
from models.inputs import check_inputs
from utils.errors import InputError, WorkerError
from utils.log import configure_logging, get_logger, held_back, write_records
from utils.memory import FullMemoryError

_USUAL_BORDER = 16  # pixels; the scale, for any that is trained
PASSED = "the check is passed; nothing was written"
FAILED = "the check has failed; nothing was written"


def check_testing(options: TestOptions, world: World, *, verbose: bool = False) -> None:
    """Load the weights, read all images, upscale the first one; the verdict is the first and the last line.

    Args:
        options: what would be tested.
        world: the processes that would test.
        verbose: log the options as read.

    Raises:
        InputError: something cannot be used.
    """
    configure_logging(rank=world.rank)
    with verdict():
        _inspect(options, world, verbose=verbose)


def _inspect(options: TestOptions, world: World, *, verbose: bool) -> None:
    log = get_logger().info
    log_options(options, verbose=verbose)
    check_inputs(options)
    datasets = evaluation_sets(
        options.datasets.values(), options.val, scale=options.scale, seed=options.manual_seed, phase="test"
    )
    check_images(datasets)
    check_borders(options.val, datasets)
    device = world.device(options.num_gpu)
    arithmetic = arithmetic_for(options, device)
    network, loaded = load_network(options, device)
    log_network(loaded)
    count = sum(parameter.numel() for parameter in network.parameters())
    if count:
        log("network %s: %s parameters", options.network_g.type, f"{count:,}")
    for dataset in datasets:
        log("%s: %d images%s", dataset.name, len(dataset), together(options))
    with torch.no_grad():
        lq = datasets[0].read(0).lq[None, :, :32, :32]
        output = arithmetic.of(network)(lq.to(next(network.parameters(), lq).device))
    if not bool(output.isfinite().all()):
        raise InputError(
            f"{loaded.path}: the output of {options.network_g.type} for {datasets[0].name} is not "
            "finite (NaN or infinity); are these weights sound?"
        )
    log("one patch: %s -> %s", list(lq.shape), list(output.shape))


@contextmanager
def verdict() -> Iterator[None]:
    """Hold back what a check logs until its verdict is known, which is written above and below it.

    Raises:
        InputError, FullMemoryError, WorkerError: the check has failed; the message ends with that.
    """
    records: list[LogRecord] = []
    try:
        with held_back(records):
            yield
    except (InputError, FullMemoryError, WorkerError) as error:
        get_logger().error(FAILED)
        write_records(records)
        raise type(error)(f"{error}\n{FAILED}") from error
    except BaseException:
        write_records(records)  # no verdict, but how far it came
        raise
    get_logger().info(PASSED)
    write_records(records)
    get_logger().info(PASSED)


@contextmanager
def reading(*, check: bool) -> Iterator[None]:
    """While option files are read: in a check, mistakes in them get its verdict above and below.

    Raises:
        InputError: there are mistakes.
    """
    try:
        yield
    except InputError as error:
        if not check:
            raise
        raise InputError(f"{FAILED}\n{error}\n{FAILED}") from error


def log_options(options: TrainOptions | TestOptions, *, verbose: bool) -> None:
    """Log what an option file is based on, what has no effect in it, and with ``verbose`` all of it as it was read."""
    for note in options.notes:
        get_logger().info("%s", note)
    if len(options.files) > 1:
        get_logger().info("%s is based on %s", options.files[0], ", ".join(options.files[1:]))
    if verbose:
        get_logger().info("options, as read:\n%s", describe(options))


def check_images(datasets: Iterable[TrainDataset | EvalDataset]) -> None:
    """Read all images.

    Raises:
        InputError: some cannot be used; the message has a line for each fault.
    """
    problems = [problem for dataset in datasets for problem in dataset.scan()]
    if problems:
        raise InputError("\n  ".join([f"{len(problems):,} images cannot be used:", *fault_lines(problems)]))


def check_borders(val: ValOptions | None, datasets: Iterable[EvalDataset]) -> None:
    """Look whether the borders of metrics leave something of the images; read are only the images of an unusual one.

    Raises:
        InputError: it is as large as an image.
    """
    metrics = {} if val is None else val.metrics
    for dataset in datasets:
        borders = {name: metric.border_at(dataset.scale) for name, metric in metrics.items()}
        name = max(borders, key=lambda name: borders[name], default="")
        border = borders.get(name, 0)
        key = ".crop_border" if hasattr(metrics.get(name), "crop_border") else ""
        for index in range(len(dataset) if border > _USUAL_BORDER else 0):
            sample = dataset.read(index)
            if sample.gt is not None and min(sample.gt.shape[-2:]) <= 2 * border:
                height, width = sample.gt.shape[-2:]
                raise InputError(
                    f"val.metrics.{name}{key}: {border} pixels on each side leave nothing of {sample.gt_path}, "
                    f"which is {width} x {height} (width x height){'; it is usually the scale' if key else ''}"
                )


def together(options: TrainOptions | TestOptions) -> str:
    """How images go through the network, for the line that counts them; empty where each goes by itself and whole."""
    val = options.val or ValOptions()
    several = "" if val.batch_size == 1 else f", up to {val.batch_size} of one size at a time"
    return several if tiling_of(val, options.tile) is None else f"{several}; {way_of(val, options.tile)}"
