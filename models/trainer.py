"""A training run, from options to weights."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import archs
from data import EvalDataset, Sample, TrainDataset, build_dataset, to_uint8, write_image
from data.loader import Batch, train_batches
from models import checkpoint
from models.checkpoint import CheckpointFolder, Resume
from models.distributed import World
from models.evaluate import EvalReport, evaluate
from models.experiment import RunFolder, open_run, training_folder
from models.pictures import comparison_picture
from models.sinks import JsonLinesSink, LogSink, Sink, TensorBoardSink, TrainRecord, ValidationRecord
from models.state import TrainState
from models.step import StepResult, train_step
from options import describe
from options.command import Command
from options.schema import TrainOptions
from utils.errors import StopRequested
from utils.log import configure_logging, get_logger
from utils.progress import Progress
from utils.seed import seed_everything
from utils.signals import StopFlag, catch_signals

_PICTURES = 4  # validation images shown in TensorBoard


@dataclass(frozen=True)
class Run:
    """What stays the same during a training run."""

    options: TrainOptions
    folder: RunFolder
    checkpoints: CheckpointFolder
    validation: tuple[EvalDataset, ...]
    sinks: tuple[Sink, ...]
    world: World
    stop: StopFlag


def train(options: TrainOptions, command: Command, world: World) -> TrainState:
    """Train as the options say; saves checkpoints, validates, logs.

    Raises:
        InputError: an option, a file or the data cannot be used.
        StopRequested: SIGINT or SIGTERM came; the state was saved.
        NonFiniteLossError: see ``train_step``.
        StorageError: writing failed; the previous checkpoint is whole.
    """
    with catch_signals() as stop:
        folder = training_folder(options)
        resume = _find_resume(options, command, folder, world)
        options = _settle_seed(options, resume, world)
        if not world.is_main:
            configure_logging(rank=world.rank)
        seed_everything(options.manual_seed)  # the same initial weights, and averages, on every rank
        state = prepare_state(options, world.device(options.num_gpu))
        seed_everything(options.manual_seed + world.rank)
        if resume is not None:
            checkpoint.apply_resume(state, resume, options, world)
        dataset = build_dataset(options.train_dataset, scale=options.scale, seed=options.manual_seed, phase="train")
        validation = validation_sets(options)
        if world.is_main:  # only now: bad input must not rename an earlier run's folder
            open_run(folder, "train", options, command, fresh=resume is None)
        world.barrier()
        if resume is not None:
            get_logger().info("resumed from %s at iteration %s", resume.path, f"{state.step:,}")
        run = Run(
            options, folder, CheckpointFolder(folder.root), validation,
            _open_sinks(options, folder, state) if world.is_main else (), world, stop,
        )  # fmt: skip
        describe_run(options, state.network, dataset, run.validation)
        try:
            _loop(run, state, dataset)
        finally:
            for sink in run.sinks:
                sink.close()
    return state


def prepare_state(options: TrainOptions, device: torch.device) -> TrainState:
    """The network, with its pretrained weights if any, and all that training adds to it."""
    network = archs.build_network(options.network_g.as_mapping())
    checkpoint.load_pretrained(network, options.path)
    state = TrainState.create(network, options, device)
    if state.ema is not None:
        checkpoint.load_pretrained_ema(state.ema, options.path)
    return state


def describe_run(
    options: TrainOptions, network: nn.Module, dataset: TrainDataset, validation: tuple[EvalDataset, ...]
) -> None:
    """Log what is about to be trained, on what."""
    count = sum(parameter.numel() for parameter in network.parameters())
    log = get_logger().info
    log("network %s: %s parameters, scale x%d", options.network_g.type, f"{count:,}", options.scale)
    epoch = dataset.epoch_length
    log(
        "%s: %s samples an epoch, batch %d, %s iterations (%.1f epochs)",
        dataset.name, f"{epoch:,}", options.train_dataset.batch_size_per_gpu, f"{options.train.total_iter:,}",
        options.train.total_iter * options.train_dataset.batch_size_per_gpu / epoch,
    )  # fmt: skip
    for held_out in validation:
        log("%s: %d images to validate on", held_out.name, len(held_out))


def _loop(run: Run, state: TrainState, dataset: TrainDataset) -> None:
    options, world = run.options, run.world
    if state.step > max(state.validated, 0) and _validates(options, state.step):
        _validate(run, state)  # the run was left between saving and validating
    elif options.val is not None and options.val.val_first and state.step == 0:
        _validate(run, state)
    model = world.wrap(state.network.train())
    batches = train_batches(
        dataset, options.train_dataset, start=state.step, stop=options.train.total_iter,
        rank=world.rank, world_size=world.size, device=state.device, channels_last=options.channels_last,
    )  # fmt: skip
    meter = _Meter(state.step, options, world)
    with Progress(options.train.total_iter, options.name, done=state.step * meter.images) as bar:
        bar.total = options.train.total_iter * meter.images
        for batch in meter.timed(batches):
            result = train_step(
                state, batch, options, model=model, world=world, norm=_due(options.logger.print_freq, state.step + 1)
            )
            bar.advance(meter.images, note=meter.note)
            if result.skipped:
                get_logger().warning("iteration %d was skipped: its loss is not finite", result.step)
            if _due(options.logger.print_freq, result.step):
                _log(run, meter.record(result, batch))
            _after_step(run, state)
    _finish(run, state)


def _after_step(run: Run, state: TrainState) -> None:
    """What some iterations are followed by: saving, validating, leaving."""
    options = run.options
    stop = run.world.any(bool(run.stop))
    last = state.step == options.train.total_iter
    if stop or last or _due(options.logger.save_checkpoint_freq, state.step):
        # Before validating: "validated" still names an earlier iteration, so that a resumed run makes up for it.
        checkpoint.save(run.checkpoints, state, options, run.world)
    if stop:
        raise _stopped(run, state)
    if _validates(options, state.step):
        _validate(run, state)


def _validates(options: TrainOptions, step: int) -> bool:
    return options.val is not None and (step == options.train.total_iter or _due(options.val.val_freq, step))


def _finish(run: Run, state: TrainState) -> None:
    if run.world.is_main:
        latest = run.checkpoints.network("latest")
        checkpoint.save_network(latest, state, run.options)
        get_logger().info("done: %s iterations; the weights are in %s", f"{state.step:,}", latest)
    run.world.barrier()


def _stopped(run: Run, state: TrainState) -> StopRequested:
    saved = run.checkpoints.state(state.step)
    return StopRequested(
        f"stopped at iteration {state.step:,}; {saved} is saved: continue with --auto_resume",
        run.stop.exit_code or 143,  # another rank got the signal
    )


def _validate(run: Run, state: TrainState) -> None:
    """Score every validation set with the averaged weights."""
    options = run.options
    assert options.val is not None
    # Ranks that leave the evaluation at different images would wait for each other for ever.
    stop = run.stop if run.world.size == 1 else None
    for dataset in run.validation:
        album = _Album(run, dataset.name, state.step, options.val.save_img)
        try:
            report = evaluate(
                state.evaluated, dataset, options.val, device=state.device, tile=options.tile,
                channels_last=options.channels_last, world=run.world, keep=album.keep, stop=stop,
            )  # fmt: skip
        except StopRequested as request:
            if state.step not in run.checkpoints.steps():
                checkpoint.save(run.checkpoints, state, options, run.world)
            raise _stopped(run, state) from request
        _record_validation(run, state, report, album.pictures)
    state.validated = state.step


class _Album:
    """Saves validation images where the options say so, and keeps the first few for TensorBoard."""

    def __init__(self, run: Run, dataset: str, step: int, save: bool) -> None:
        self.folder = run.folder.pictures / dataset if save else None
        self.room = 0 if run.folder.tensorboard is None else _PICTURES
        self.step = step
        self.pictures: dict[str, NDArray[np.uint8]] = {}

    def keep(self, sample: Sample, image: NDArray[np.uint8]) -> None:
        if self.folder is not None:
            write_image(self.folder / sample.name / f"{sample.name}_{self.step}.png", image)
        if len(self.pictures) < self.room:
            gt = None if sample.gt is None else to_uint8(sample.gt)
            self.pictures[sample.name] = comparison_picture(to_uint8(sample.lq), image, gt)


def _record_validation(run: Run, state: TrainState, report: EvalReport, pictures: dict[str, NDArray[np.uint8]]) -> None:
    assert run.options.val is not None
    best = {
        metric: state.record(report.dataset, metric, value, run.options.val.metrics[metric].better)
        for metric, value in report.scores.items()
    }
    for sink in run.sinks:
        sink.validation(ValidationRecord(state.step, report.dataset, report.scores, best, pictures))


def _log(run: Run, record: TrainRecord) -> None:
    for sink in run.sinks:
        sink.training(record)


class _Meter:
    """Times of the iterations since the last record."""

    def __init__(self, step: int, options: TrainOptions, world: World) -> None:
        self.images = options.train_dataset.batch_size_per_gpu * world.size
        self.total = options.train.total_iter
        self.first = self.logged = step
        self.started = self.since = time.monotonic()
        self.waited = 0.0
        self.note = ""

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; the time spent waiting for each is added up."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def record(self, result: StepResult, batch: Batch) -> TrainRecord:
        """What happened since the last call; reading the losses waits for the device, once per record."""
        losses = {name: float(value) for name, value in result.losses.items()}
        now = time.monotonic()
        count = result.step - self.logged
        seconds, waited = (now - self.since) / count, self.waited / count
        per_step = (now - self.started) / (result.step - self.first)
        record = TrainRecord(
            step=result.step, epoch=batch.epoch, lr=result.lr, losses=losses,
            grad_norm=None if result.grad_norm is None else float(result.grad_norm),
            images_per_second=self.images / seconds, seconds=seconds, data_seconds=waited,
            eta_seconds=per_step * (self.total - result.step),
        )  # fmt: skip
        self.logged, self.since, self.waited = result.step, now, 0.0
        self.note = f"l_pix {losses['l_pix']:.4f}  data wait {record.data_share:.0%}"
        return record


def _due(frequency: int | None, step: int) -> bool:
    return frequency is not None and step % frequency == 0


def _find_resume(options: TrainOptions, command: Command, folder: RunFolder, world: World) -> Resume | None:
    """The state to continue from: ``path.resume_state``, or the newest one with ``--auto_resume``."""
    configure_logging(rank=world.rank)
    if options.path.resume_state is not None:
        return checkpoint.read_resume(options.path.resume_state, options.path)
    return checkpoint.find_resume(CheckpointFolder(folder.root), options.path) if command.auto_resume else None


def _settle_seed(options: TrainOptions, resume: Resume | None, world: World) -> TrainOptions:
    """One seed for all ranks; a resumed run keeps the one that it began with, for its data stream."""
    seed = world.from_main(options.manual_seed)
    if resume is not None and resume.seed is not None and resume.seed != seed:
        get_logger().warning("manual_seed: the resumed run began with %d, which is kept", resume.seed)
        seed = resume.seed
    return dataclasses.replace(options, manual_seed=seed)


def validation_sets(options: TrainOptions) -> tuple[EvalDataset, ...]:
    """The data sets that a training file validates on."""
    if options.val is None:
        return ()
    return tuple(
        build_dataset(dataset, scale=options.scale, seed=options.manual_seed, phase="val")
        for dataset in options.val_datasets.values()
    )


def _open_sinks(options: TrainOptions, folder: RunFolder, state: TrainState) -> tuple[Sink, ...]:
    sinks: list[Sink] = [
        LogSink(options.name),
        JsonLinesSink(folder.root / "metrics.jsonl", state.step, state.validated),
    ]
    if folder.tensorboard is not None:
        sinks.append(TensorBoardSink(folder.tensorboard, state.step, describe(options)))
    return tuple(sinks)
