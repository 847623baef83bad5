"""``--check`` of a training file: build everything that a run needs, read its images, iterate, and write nothing."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from config.schema import TrainOptions
from data import TrainDataset
from data.images.faults import fault_lines
from data.loader import Batch, train_batches
from data.patches.options import PatchOptions
from models.distributed import World
from models.evaluation.check import check_borders, check_images, log_options, verdict
from models.inputs import check_inputs
from models.training.batch_limit import find_largest_batch
from models.training.checkpoint import apply_resume, read_resume
from models.training.demand import batch_advice, check_activations, check_demand, data_advice, of_batch
from models.training.objectives import Objective, build_objective
from models.training.run import describe_run, prepare_state, training_set, validation_sets
from models.training.state import TrainState
from models.training.step import output_of
from utils.devices import synchronise
from utils.env import peak_memory
from utils.errors import InputError
from utils.log import configure_logging, get_logger
from utils.memory import memory_for
from utils.progress import clock
from utils.seed import seed_everything

_MEASURED = 3  # iterations that are timed
_LONGEST_CYCLE = 12  # where network_g is trained more rarely, the time is that of so many, one of them with it


def check_training(options: TrainOptions, world: World, *, largest_batch: bool = False, verbose: bool = False) -> None:
    """:func:`inspect_training` as a command: its verdict is the first and the last line.

    Args:
        options: what would be trained.
        world: the processes that would train.
        largest_batch: find out how large a batch could be.
        verbose: log the options as read.

    Raises:
        InputError: something cannot be used, or the memory cannot hold it.
        FullMemoryError: the memory is full.
    """
    configure_logging(rank=world.rank)
    with verdict():
        inspect_training(options, world, largest_batch=largest_batch, verbose=verbose)


def inspect_training(
    options: TrainOptions, world: World, *, largest_batch: bool = False, verbose: bool = False
) -> None:
    """Everything up to the first iterations, which are done and forgotten; arguments as :func:`check_training`.

    Raises:
        InputError: something cannot be used, or the memory cannot hold it; of images that cannot be used, each fault is
            a line.
        FullMemoryError: the memory is full.
    """
    log = get_logger().info
    log_options(options, verbose=verbose)
    resume = None if options.path.resume_state is None else read_resume(options.path.resume_state, options.path)
    resumed = () if resume is None else resume.networks.keys()
    check_inputs(options, resumed)
    dataset = training_set(options)
    device = world.device(options.num_gpu)
    check_demand(options, device, dataset)
    held_out = validation_sets(options)
    training = options.train_dataset
    with memory_for(f"the images of {dataset.name}", data_advice(options)):
        if isinstance(training, PatchOptions) and training.on_error == "skip":
            _log_left_out(dataset)
            check_images(held_out)
        else:
            check_images((dataset, *held_out))
    check_borders(options.val, held_out)
    seed_everything(options.manual_seed)
    state = prepare_state(options, device, resumed)
    if resume is not None:
        apply_resume(state, resume, options, world)
    check_activations(state, options)
    for player in state.players.values():
        player.network.train()
    objective = build_objective(options, state)
    describe_run(options, state, objective, dataset, held_out)
    with memory_for(f"a batch of {dataset.name}", data_advice(options)):
        batch = next(train_batches(
            dataset, options.train_dataset, stop=1, device=device, channels_last=options.channels_last
        ))  # fmt: skip
    targets = ", ".join(f"{name} {list(target.shape)}" for name, target in batch.targets.items())
    queries = "" if batch.queries is None else f" at {batch.size[0]:,} points of each of {len(batch)} patches"
    log("one batch: lq %s, %s%s", list(batch.lq.shape), targets, queries)
    with memory_for(f"an iteration on {device}, {of_batch(options, batch)}", batch_advice(options)):
        _one_iteration(state, objective, batch)
        _measure(state, objective, batch, options)
    if largest_batch:
        most, refused = find_largest_batch(state, batch, options)
        bound = "larger ones were not tried" if refused is None else f"{refused} does not fit"
        log("largest batch in this memory: batch_size_per_gpu %d (%s)", most, bound)


def _one_iteration(state: TrainState, objective: Objective, batch: Batch) -> None:
    """Do the first iteration and log what came of it."""
    result = objective.step(state, batch)
    losses = ", ".join(f"{name} {float(value):.4e}" for name, value in result.losses.items())
    players = ", ".join(
        f"gradient norm{of} {float(result.grad_norms[name]):.3e}, lr{of} {rates[0]:.3e}"
        for name, rates in result.rates.items()
        if name in result.grad_norms
        for of in ("" if name == "g" else f" of network_{name}",)
    )
    get_logger().info("one iteration: %s, %s", losses, players)


def _measure(state: TrainState, objective: Objective, batch: Batch, options: TrainOptions) -> None:
    """Log what an iteration costs: arithmetic, memory, time, and how long the run would take at that."""
    log = get_logger().info
    single = next(batch.micro_batches(len(batch)))
    pixels = batch.lq.shape[-2] * batch.lq.shape[-1]
    for name, player in state.players.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output_of(player.network, single) if name == "g" else player.network(single.gt)
        work = counter.get_total_flops() / 2
        per_pixel = f", {work / pixels:.3g} per low-resolution pixel" if name == "g" else " by the discriminator"
        log("arithmetic: %.3g multiply-adds per patch%s", work, per_pixel)
    # Iterations in which all players and losses take their part, each as often as in the long run.
    state.step = max(state.step, objective.full_step - 1)
    count = -(-_MEASURED // objective.cycle) * objective.cycle if objective.cycle <= _LONGEST_CYCLE else _LONGEST_CYCLE
    synchronise(state.device)
    started = time.perf_counter()
    for _ in range(count):
        objective.step(state, batch)
    synchronise(state.device)
    seconds = (time.perf_counter() - started) / count
    total = seconds * options.train.total_iter
    peak = peak_memory(state.device)
    log(
        "speed: %.3f s per iteration without waiting for data, %.1f images/s, %s for %s iterations; memory so far: %s",
        seconds, len(batch) / seconds, clock(total), f"{options.train.total_iter:,}",
        f"{peak / 2**30:.2f} GiB" if peak else "unknown",
    )  # fmt: skip


def _log_left_out(dataset: TrainDataset) -> None:
    """Log which images training would leave out."""
    problems = dataset.scan()
    for line in fault_lines(problems):
        get_logger().warning("%s: would be left out: %s", dataset.name, line)
    if len(problems) == len(dataset):
        raise InputError(f"{dataset.name}: none of its {len(dataset)} images can be used; see the messages above")
