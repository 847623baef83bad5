"""A training run, from options to weights."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import archs
from config import describe, to_dict
from config.command import Command
from config.schema import TrainOptions, ValOptions
from data import EvalDataset, Sample, TrainDataset, build_dataset, to_uint8
from data.loader import Batch, train_batches
from models.distributed import World
from models.evaluation.evaluate import EvalReport, evaluate
from models.evaluation.pictures import PictureWriter, comparison_picture
from models.experiment import RunFolder, open_run, training_folder
from models.training import checkpoint
from models.training.checkpoint import CheckpointFolder, Resume
from models.training.finite import FiniteGuard
from models.training.saver import Saver
from models.training.sinks import (
    JsonLinesSink,
    LogSink,
    Sink,
    TensorBoardSink,
    TrainRecord,
    ValidationRecord,
    WandbSink,
)
from models.training.state import TrainState
from models.training.step import StepResult, train_step
from models.weights.files import load_pretrained, load_pretrained_ema
from utils.env import peak_memory
from utils.errors import InputError, StopRequested
from utils.log import configure_logging, get_logger
from utils.progress import Progress
from utils.seed import seed_everything
from utils.signals import StopFlag, catch_signals

_PICTURES = 4  # validation images shown in TensorBoard
_AGREE = 10  # iterations between two agreements of several ranks whether to stop


@dataclass(frozen=True)
class Run:
    """What stays the same during a training run."""

    options: TrainOptions
    folder: RunFolder
    checkpoints: CheckpointFolder
    saver: Saver
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
        MemoryError: the device's memory is full; the state was saved.
        StorageError: writing failed; the previous checkpoint is whole.
    """
    with catch_signals() as stop, opened(options, command, world, stop) as (run, state, dataset):
        for _ in iterations(run, state, dataset):
            pass
        _finish(run, state)
    return state


@contextlib.contextmanager
def opened(
    options: TrainOptions, command: Command, world: World, stop: StopFlag
) -> Iterator[tuple[Run, TrainState, TrainDataset]]:
    """A run with its folder and logs, ready for :func:`iterations`; closes its files at the end."""
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
    dataset = training_set(options)
    validation = validation_sets(options)
    if world.is_main:  # only now: bad input must not rename an earlier run's folder
        open_run(folder, "train", options, command, fresh=resume is None)
    world.barrier()
    if resume is not None:
        get_logger().info("resumed from %s at iteration %s", resume.path, f"{state.step:,}")
    checkpoints = CheckpointFolder(folder.root)
    run = Run(
        options, folder, checkpoints, Saver(checkpoints, options, world), validation,
        _open_sinks(options, folder, state) if world.is_main else (), world, stop,
    )  # fmt: skip
    describe_run(options, state.network, dataset, run.validation)
    with contextlib.ExitStack() as closing:
        for sink in run.sinks:
            closing.callback(sink.close)
        closing.callback(run.saver.close)
        yield run, state, dataset


def prepare_state(options: TrainOptions, device: torch.device) -> TrainState:
    """The network, with its pretrained weights if any, and all that training adds to it."""
    set_precision(tf32=options.train.tf32)
    network = archs.build_network(_network_arguments(options))
    load_pretrained(network, options.path)
    state = TrainState.create(network, options, device)
    if state.ema is not None:
        load_pretrained_ema(state.ema, options.path)
    return state


def _network_arguments(options: TrainOptions) -> dict[str, object]:
    arguments = options.network_g.as_mapping()
    if options.train.checkpoint_activations:
        known = signature(archs.network_class(options.network_g.type)).parameters
        if "use_checkpoint" not in known:
            raise InputError(
                f"train.checkpoint_activations: {options.network_g.type} cannot compute its blocks twice; leave the "
                "key out, or use train.accumulate to save memory"
            )
        arguments["use_checkpoint"] = True
    return arguments


def set_precision(*, tf32: bool) -> None:
    """Whether GPUs may round float32 factors to 10 bits; torch does so for convolutions unless it is told."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def called_network(network: nn.Module, options: TrainOptions, world: World) -> nn.Module:
    """The network as training calls it: compiled where the options say so, and connected to the other ranks."""
    if options.train.compile:
        network = cast("nn.Module", torch.compile(network, mode=options.train.compile_mode))
    return world.wrap(network)


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
        log("%s: %d images to validate on%s", held_out.name, len(held_out), together(options.val))


def together(val: ValOptions | None) -> str:
    """How images go through the network, for the line that counts them; empty where each goes by itself."""
    return "" if val is None or val.batch_size == 1 else f", up to {val.batch_size} of one size at a time"


def iterations(run: Run, state: TrainState, dataset: TrainDataset) -> Iterator[StepResult]:
    """The iterations that are left, each with what follows it: logging, saving, validating."""
    options, world = run.options, run.world
    if state.step > max(state.validated, 0) and _validates(options, state.step):
        _validate(run, state)  # the run was left between saving and validating
    elif options.val is not None and options.val.val_first and state.step == 0:
        _validate(run, state)
    model = called_network(state.network.train(), options, world)
    guard = FiniteGuard.create(state.optimizer, state.device, skip=options.train.nonfinite == "skip")
    batches = train_batches(
        dataset, options.train_dataset, start=state.step, stop=options.train.total_iter,
        rank=world.rank, world_size=world.size, device=state.device, channels_last=options.channels_last,
    )  # fmt: skip
    meter = _Meter(state.step, options, world)
    with Progress(options.train.total_iter, options.name, done=state.step * meter.images) as bar:
        bar.total = options.train.total_iter * meter.images
        for batch in meter.timed(batches):
            result = _iterate(run, state, batch, model, guard)
            bar.advance(meter.images, note=meter.note)
            if result.skipped:
                get_logger().warning("iteration %d was skipped: its loss or gradient is not finite", result.step)
            if _due(options.logger.print_freq, result.step):
                _settle(guard, state)
                _log(run, meter.record(result, batch))
            _after_step(run, state, guard)
            yield result
    _settle(guard, state)


def _iterate(run: Run, state: TrainState, batch: Batch, model: nn.Module, guard: FiniteGuard) -> StepResult:
    """One iteration; where memory runs out the state is saved and the user told what would help."""
    try:
        return train_step(state, batch, run.options, model=model, world=run.world, guard=guard)
    except torch.OutOfMemoryError as error:
        state.optimizer.zero_grad(set_to_none=True)
        if run.world.size == 1:  # other ranks are in the middle of the iteration and would not join
            run.saver.save(state)
            run.saver.wait()
        raise MemoryError(_memory_advice(run.options, state, batch)) from error


def _memory_advice(options: TrainOptions, state: TrainState, batch: Batch) -> str:
    train = options.train
    height, width = batch.lq.shape[-2:]
    helps = [
        f"train.accumulate: {2 * train.accumulate} (now {train.accumulate})",
        *([] if train.amp else ["train.amp: bf16"]),
        *([] if train.checkpoint_activations else ["train.checkpoint_activations: true"]),
        "a smaller batch_size_per_gpu or gt_size",
    ]
    return (
        f"the memory of {state.device} is full in iteration {state.step + 1}: batch {len(batch.lq)}, patches of "
        f"{height} x {width} low-resolution pixels, {train.amp or 'float32'}. What helps: {'; '.join(helps)}. "
        "Continue with --auto_resume"
    )


def _settle(guard: FiniteGuard, state: TrainState) -> None:
    """Ask what a deferred guard has seen; where nothing was, this waits for nothing."""
    skipped = guard.settle()
    if skipped:
        state.skipped += skipped
        get_logger().warning("%d iterations were skipped: their loss or gradient is not finite", skipped)


def _after_step(run: Run, state: TrainState, guard: FiniteGuard) -> None:
    """What some iterations are followed by: saving, validating, leaving."""
    options = run.options
    stop = _asked_to_stop(run, state)
    last = state.step == options.train.total_iter
    if stop or last or _due(options.logger.save_checkpoint_freq, state.step):
        _settle(guard, state)
        # Before validating: "validated" still names an earlier iteration, so that a resumed run makes up for it.
        run.saver.save(state)
    if stop:
        raise _stopped(run, state)
    if _validates(options, state.step):
        _validate(run, state)


def _asked_to_stop(run: Run, state: TrainState) -> bool:
    """Whether a signal came, to any rank; several ranks agree on it now and then, since agreeing takes time."""
    if run.world.size > 1 and state.step % _AGREE != 0 and state.step != run.options.train.total_iter:
        return False
    return run.world.any(bool(run.stop))


def _validates(options: TrainOptions, step: int) -> bool:
    return options.val is not None and (step == options.train.total_iter or _due(options.val.val_freq, step))


def _finish(run: Run, state: TrainState) -> None:
    if run.world.is_main:
        run.saver.wait()
        latest = run.checkpoints.network("latest")
        checkpoint.write_network(latest, checkpoint.network_content(state, run.options))
        get_logger().info("done: %s iterations; the weights are in %s", f"{state.step:,}", latest)
    run.world.barrier()


def _stopped(run: Run, state: TrainState) -> StopRequested:
    run.saver.wait()
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
    for position, dataset in enumerate(run.validation):
        album = _Album(run, dataset.name, state.step, options.val.save_img)
        try:
            report = evaluate(
                state.evaluated, dataset, options.val, device=state.device, tile=options.tile,
                channels_last=options.channels_last, world=run.world, keep=album.keep, stop=stop,
            )  # fmt: skip
        except StopRequested as request:
            run.saver.save(state)
            raise _stopped(run, state) from request
        finally:
            album.finish()
        improved = _record_validation(run, state, report, album.pictures)
        if improved and position == 0 and options.logger.keep_best:
            run.saver.save_best(state)
    state.validated = state.step


class _Album:
    """Saves validation images where the options say so, and keeps the first few for TensorBoard."""

    def __init__(self, run: Run, dataset: str, step: int, save: bool) -> None:
        self.folder = run.folder.pictures / dataset if save else None
        self.room = 0 if run.folder.tensorboard is None else _PICTURES
        self.step = step
        self.pictures: dict[str, NDArray[np.uint8]] = {}
        self.writer = PictureWriter() if save else None

    def finish(self) -> None:
        """Wait for the images; raises what went wrong with them."""
        if self.writer is not None:
            self.writer.finish()

    def keep(self, sample: Sample, image: Tensor) -> None:
        """Fetch a picture from the device if it is to be written or shown."""
        shown = len(self.pictures) < self.room
        if self.writer is None and not shown:
            return
        pixels = image.cpu().numpy()
        if self.folder is not None and self.writer is not None:
            self.writer.write(self.folder / sample.name / f"{sample.name}_{self.step}.png", pixels)
        if shown:
            gt = None if sample.gt is None else to_uint8(sample.gt)
            self.pictures[sample.name] = comparison_picture(to_uint8(sample.lq), pixels, gt)


def _record_validation(run: Run, state: TrainState, report: EvalReport, pictures: dict[str, NDArray[np.uint8]]) -> bool:
    """Tell the sinks; whether the first metric is better than ever."""
    assert run.options.val is not None
    best = {
        metric: state.record(report.dataset, metric, value, run.options.val.metrics[metric].better)
        for metric, value in report.scores.items()
    }
    for sink in run.sinks:
        sink.validation(ValidationRecord(state.step, report.dataset, report.scores, best, pictures))
    first = next(iter(best.values()), None)
    return first is not None and first.step == state.step


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
            eta_seconds=per_step * (self.total - result.step), memory=_peak_memory(batch.lq.device),
        )  # fmt: skip
        self.logged, self.since, self.waited = result.step, now, 0.0
        self.note = f"l_pix {losses['l_pix']:.4f}  data wait {record.data_share:.0%}"
        return record


def _peak_memory(device: torch.device) -> int:
    """Bytes; asking a GPU's allocator does not wait for the GPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def _due(frequency: int | None, step: int) -> bool:
    return frequency is not None and step % frequency == 0


def _find_resume(options: TrainOptions, command: Command, folder: RunFolder, world: World) -> Resume | None:
    """The state to continue from: ``path.resume_state``, or the newest one with ``--auto_resume``."""
    configure_logging(rank=world.rank)
    if options.path.resume_state is not None:
        return checkpoint.read_resume(options.path.resume_state, options.path)
    # torchrun starts all ranks again when one has died: the run goes on by itself.
    again = command.auto_resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return checkpoint.find_resume(CheckpointFolder(folder.root), options.path) if again else None


def _settle_seed(options: TrainOptions, resume: Resume | None, world: World) -> TrainOptions:
    """One seed for all ranks; a resumed run keeps the one that it began with, for its data stream."""
    seed = world.from_main(options.manual_seed)
    if resume is not None and resume.seed is not None and resume.seed != seed:
        get_logger().warning("manual_seed: the resumed run began with %d, which is kept", resume.seed)
        seed = resume.seed
    return dataclasses.replace(options, manual_seed=seed)


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
    wandb = options.logger.wandb
    if wandb is not None and wandb.project is not None:
        sinks.append(WandbSink(folder.root, options.name, wandb, to_dict(options)))
    return tuple(sinks)
