"""A training run before and after its iterations: seed, folder, data, networks, logs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from config import describe, to_dict
from config.command import Command
from config.schema import TrainOptions
from data import EvalDataset, TrainDataset, build_dataset
from models.distributed import World, has_begun, mark_begun, restarts
from models.evaluation.check import check_borders, together
from models.evaluation.sets import check_channels, evaluation_sets
from models.evaluation.tester import arithmetic_for
from models.experiment import RunFolder, open_run, reserved, training_folder
from models.inputs import check_inputs, check_place
from models.training.checkpoint import (
    CheckpointFolder,
    Resume,
    find_resume,
    read_resume,
    set_aside_later,
    take_over,
)
from models.training.demand import check_activations, check_demand
from models.training.finite import FiniteGuard
from models.training.objectives import Objective, build_objective, players_of
from models.training.players import build_players
from models.training.saver import Saver
from models.training.sinks import ImageScoresSink, JsonLinesSink, LogSink, Sink, TensorBoardSink, WandbSink
from models.training.state import TrainState
from models.training.step import AMP
from models.weights.files import log_loaded
from utils.devices import abilities, native_precisions, set_tf32
from utils.errors import InputError
from utils.log import configure_logging, copied_log, get_logger
from utils.memory import memory_for
from utils.scale import scale_text
from utils.seed import seed_everything
from utils.signals import StopFlag

PageSink = Callable[[Path], Sink]
"""Makes the sink that keeps a page up to date, from the folder of a run."""
_PATIENCE = 30.0  # seconds; longer than ranks live whose launcher is gone


@dataclass(frozen=True)
class Run:
    """What stays the same during a training run."""

    options: TrainOptions
    objective: Objective
    folder: RunFolder
    saver: Saver
    validation: tuple[EvalDataset, ...]
    sinks: tuple[Sink, ...]
    world: World
    stop: StopFlag
    goes_on: str
    """How it is continued when it was stopped, for messages."""


@contextlib.contextmanager
def alone(options: TrainOptions, command: Command, world: World) -> Iterator[None]:
    """Keep other processes from training in this run's folders; held by rank 0.

    A run that goes on waits for the one before, which may be about to end: killed, but for its last rank.

    Raises:
        InputError: another process trains there, or the folders cannot be made. On every rank.
    """
    configure_logging(rank=world.rank)
    check_place("experiments_root", options)
    goes_on = command.auto_resume or options.path.resume_state is not None or restarts() > 0
    mine = reserved(training_folder(options), "trains", patience=_PATIENCE if goes_on else 0)
    with copied_log(), world.on_main(mine):
        yield


@contextlib.contextmanager
def opened(
    options: TrainOptions, command: Command, world: World, stop: StopFlag, page: PageSink | None = None
) -> Iterator[tuple[Run, TrainState, TrainDataset]]:
    """A run with its folder and logs, ready for its iterations; closes its files at the end.

    Args:
        options: what is trained.
        command: what was typed.
        world: all ranks.
        stop: set by a signal.
        page: makes the sink that keeps the page of a run's folder up to date, for ``logger.report``.

    Raises:
        InputError: an option, a file or the data cannot be used, or the memory cannot hold them; an earlier run of that
            name is where it was.
    """
    folder = training_folder(options)
    configure_logging(rank=world.rank)
    resume = _resume_asked_for(options, command, folder, world)
    options = _with_common_seed(options, resume, world)
    check_inputs(options, () if resume is None else resume.networks)
    seed_everything(options.manual_seed)  # the same initial weights, EMA included, on every rank
    resumed = () if resume is None else resume.networks.keys()
    state = prepare_state(options, world.device(options.num_gpu), resumed)
    seed_everything(options.manual_seed + world.rank)
    if resume is not None:
        resume = take_over(state, resume, options, world)
    dataset = training_set(options)
    check_demand(options, state.device, dataset)
    check_activations(state, options)
    objective = _objective(options, state, world)
    validation = validation_sets(options)
    check_borders(options.val, validation)
    if world.is_main:  # only now: bad input must not rename an earlier run's folder
        open_run(folder, "train", options, command, fresh=resume is None)
        mark_begun(str(folder.root.absolute()))
        if resume is not None:
            set_aside_later(CheckpointFolder(folder.root), resume.step)
    world.barrier()
    if resume is not None:
        get_logger().info("resumed from %s at iteration %s", resume.path, f"{state.step:,}")
    sinks = _open_sinks(options, folder, state, page) if world.is_main else ()
    state.unlogged = None
    saver = Saver(CheckpointFolder(folder.root), options, world)
    run = Run(options, objective, folder, saver, validation, sinks, world, stop, command.goes_on)
    describe_run(options, state, objective, dataset, validation)
    with contextlib.ExitStack() as closing:
        for sink in run.sinks:
            closing.callback(sink.close)
        closing.callback(run.saver.close)
        yield run, state, dataset


def prepare_state(options: TrainOptions, device: torch.device, resumed: Collection[str] = ()) -> TrainState:
    """The state before the first iteration, pretrained weights included.

    Args:
        options: what is trained.
        device: where it goes.
        resumed: networks ("g") whose weights come from a checkpoint, so that their pretrained files are not needed.

    Raises:
        InputError: a pretrained file cannot be read or does not fit, images have other channels than network_g, or the
            device is no place for ``train.amp``.
    """
    _check_abilities(options, device)
    arithmetic_for(options, device)  # before anything is built
    set_tf32(on=options.train.tf32)
    what = f"{options.network_g.type} with its gradients, optimiser and EMA weights on {device}"
    with memory_for(what, "a smaller network_g, closing other programs, or a machine with more memory"):
        state = TrainState(build_players(players_of(options), options, device, resumed), device)
    check_channels(state.generator.network, options.datasets)
    return state


def _check_abilities(options: TrainOptions, device: torch.device) -> None:
    """Raise InputError where the device cannot do what the options ask for."""
    can, amp = abilities(device), options.train.amp
    if amp == "fp16" and can.in_main_memory:
        raise InputError(
            "train.amp: fp16 is for GPUs; on a CPU it takes 10 to 20 times as long as float32: choose "
            "train:amp=bf16 or train:amp=null"
        )
    if amp is not None and AMP[amp] not in can.autocast:
        others = [f"train:amp={name}" for name in AMP if AMP[name] in can.autocast]
        raise InputError(
            f"train.amp: {amp}: PyTorch has no mixed precision of that type on {device}; choose "
            f"{' or '.join([*others, 'train:amp=null'])}"
        )
    if amp == "fp16" and not can.loss_scaling:
        raise InputError(
            f"train.amp: fp16: this PyTorch ({torch.__version__}) cannot scale gradients on {device}; choose "
            f"{'train:amp=bf16 or ' if AMP['bf16'] in can.autocast else ''}train:amp=null"
        )
    if options.train.compile and not can.compiles:
        raise InputError(f"train.compile: torch.compile makes no kernels for {device}; choose train:compile=false")


def _objective(options: TrainOptions, state: TrainState, world: World) -> Objective:
    """What trains the players, with the weights that its losses hold."""
    guard = FiniteGuard.create(state, skip=options.train.nonfinite == "skip")
    with memory_for(f"the losses on {state.device}", "closing other programs, or a machine with more memory"):
        models = called_networks(state, options, world)
        return build_objective(options, state, models=models, world=world, guard=guard)


def called_networks(state: TrainState, options: TrainOptions, world: World) -> dict[str, nn.Module]:
    """The networks as training calls them: connected to the other ranks, the generator compiled where options say so.

    A discriminator is not compiled: in an iteration it is called in several ways (frozen, with and without gradients),
    each of which would be compiled for itself.
    """
    called = {}
    for name, player in state.players.items():
        network = player.network.train()
        if options.train.compile and name == "g":
            network = cast("nn.Module", torch.compile(network, mode=options.train.compile_mode))
        called[name] = world.wrap(network)
    return called


def describe_run(
    options: TrainOptions,
    state: TrainState,
    objective: Objective,
    dataset: TrainDataset,
    validation: tuple[EvalDataset, ...],
) -> None:
    """Log what is about to be trained, on what."""
    log = get_logger().info
    counts = {
        name: f"{sum(parameter.numel() for parameter in player.network.parameters()):,}"
        for name, player in state.players.items()
    }
    log("network %s: %s parameters, scale %s", options.network_g.type, counts["g"], scale_text(options.scale))
    if options.network_d is not None and "d" in counts:
        log("discriminator %s: %s parameters", options.network_d.type, counts["d"])
    optimizers = [
        f"{type(player.optimizer).__name__} (lr {player.optimizer.param_groups[0]['initial_lr']:g}) for network_{name}"
        for name, player in state.players.items()
    ]
    log("optimisers: %s", ", ".join(optimizers))
    for line in objective.summary():
        log("%s", line)
    if options.train.amp == "bf16" and "bf16" not in native_precisions(state.device):
        processor = "this CPU" if abilities(state.device).in_main_memory else f"the device {state.device}"
        log("train.amp: bf16: %s has no bfloat16 arithmetic; iterations take longer than in float32", processor)
    for player in state.players.values():
        if player.start is not None:
            log_loaded(player.start)
    epoch = dataset.epoch_length
    log(
        "%s: %s samples an epoch, batch %d, %s iterations (%.1f epochs)",
        dataset.name, f"{epoch:,}", options.train_dataset.batch_size_per_gpu, f"{options.train.total_iter:,}",
        options.train.total_iter * options.train_dataset.batch_size_per_gpu / epoch,
    )  # fmt: skip
    for held_out in validation:
        log("%s: %d images to validate on%s", held_out.name, len(held_out), together(options))


def training_set(options: TrainOptions) -> TrainDataset:
    """The data set that is trained on."""
    return build_dataset(
        options.train_dataset, scale=options.scale, seed=options.manual_seed, phase="train",
        degradations=options.degradations,
    )  # fmt: skip


def validation_sets(options: TrainOptions) -> tuple[EvalDataset, ...]:
    """The data sets that a training file validates on."""
    if options.val is None:
        return ()
    return evaluation_sets(
        options.val_datasets.values(), options.val, scale=options.largest_scale, seed=options.manual_seed, phase="val"
    )


def _resume_asked_for(options: TrainOptions, command: Command, folder: RunFolder, world: World) -> Resume | None:
    """The state to continue from: ``path.resume_state``, or the newest one with ``--auto_resume``."""
    if options.path.resume_state is not None:
        if command.restart:
            raise InputError("--restart begins anew, and path.resume_state says to go on: leave one of them out")
        return world.together(partial(read_resume, options.path.resume_state, options.path))
    # torchrun starts all ranks again when one has died: the run goes on by itself, once it has begun; what is there
    # before that is an earlier run's.
    begun = world.from_main(world.is_main and has_begun(str(folder.root.absolute())))
    if begun or (command.auto_resume and not command.restart):
        return find_resume(CheckpointFolder(folder.root), options.path, world)
    return None


def _with_common_seed(options: TrainOptions, resume: Resume | None, world: World) -> TrainOptions:
    """One seed for all ranks; a resumed run keeps the one that it began with, for its data stream."""
    seed = world.from_main(options.manual_seed)
    if resume is not None and resume.seed is not None and resume.seed != seed:
        get_logger().warning("manual_seed: the resumed run began with %d, which is kept", resume.seed)
        seed = resume.seed
    return dataclasses.replace(options, manual_seed=seed)


def _open_sinks(options: TrainOptions, folder: RunFolder, state: TrainState, page: PageSink | None) -> tuple[Sink, ...]:
    lines = JsonLinesSink(folder.root / "metrics.jsonl", state.step, state.validated, state.unlogged)
    images = ImageScoresSink(folder.root / "validation.json")
    sinks: list[Sink] = [LogSink(options.name), lines, images]
    if folder.tensorboard is not None and not _is_utf8(str(folder.tensorboard)):
        get_logger().warning("%s: TensorBoard cannot write there, since the path is not UTF-8", folder.tensorboard)
    elif folder.tensorboard is not None:
        text = describe(options).encode(errors="backslashreplace").decode()  # the paths of data may be none either
        sinks.append(
            TensorBoardSink(
                folder.tensorboard, state.step, text, repeated=lines.resumed,
                complete=state.unlogged is None and state.validated >= state.step,
            )
        )  # fmt: skip
    wandb = options.logger.wandb
    if wandb is not None and wandb.project is not None:
        sinks.append(WandbSink(folder.root, options.name, wandb, to_dict(options)))
    if options.logger.report and page is not None:
        sinks.append(page(folder.root))  # the last one: the page shows what the others have written
    return tuple(sinks)


def _is_utf8(text: str) -> bool:
    """Whether a path was UTF-8: of others, Python has half characters."""
    return text.encode(errors="ignore").decode() == text
