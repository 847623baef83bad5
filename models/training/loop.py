"""A training run, from options to weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from config.command import Command
from config.schema import TrainOptions
from data import TrainDataset
from data.loader import Batch, train_batches
from models.distributed import World
from models.training.finite import FiniteGuard
from models.training.meter import Meter
from models.training.objectives import Objective, build_objective
from models.training.run import Run, called_networks, opened
from models.training.state import TrainState
from models.training.step import StepResult
from models.training.validation import report_lag, stop_request, validate, validates
from utils.errors import StopRequested, WorkerError
from utils.log import get_logger
from utils.signals import catch_signals

_AGREE = 10  # iterations between two agreements of several ranks whether to stop


def train(options: TrainOptions, command: Command, world: World) -> TrainState:
    """Train as the options say; saves checkpoints, validates, logs.

    Raises:
        InputError: an option, a file or the data cannot be used.
        StopRequested: SIGINT or SIGTERM came; the state was saved.
        NonFiniteLossError: see :func:`models.training.step.finish_step`.
        MemoryError: the device's memory is full; the state was saved.
        StorageError: writing failed; the previous checkpoint is whole.
    """
    with catch_signals() as stop, opened(options, command, world, stop) as (run, state, dataset):
        train_until(options.train.total_iter, run, state, dataset)
        if options.val is None:
            report_lag(run, state)
        latest = run.saver.save_latest(state)
        if latest is not None:
            get_logger().info("done: %s iterations; the weights are in %s", f"{state.step:,}", latest)
        world.barrier()
    return state


def train_until(last: int, run: Run, state: TrainState, dataset: TrainDataset) -> None:
    """Iterations up to and including ``last``, each with what is due after it: logging, saving, validating."""
    options, world = run.options, run.world
    if state.step > max(state.validated, 0) and validates(options, state.step):
        validate(run, state)  # the run was left between saving and validating
    elif options.val is not None and options.val.val_first and state.step == 0:
        validate(run, state)
    guard = FiniteGuard.create(state, skip=options.train.nonfinite == "skip")
    models = called_networks(state, options, world)
    objective = build_objective(options, state, models=models, world=world, guard=guard)
    batches = train_batches(
        dataset, options.train_dataset, start=state.step, stop=options.train.total_iter,
        rank=world.rank, world_size=world.size, device=state.device, channels_last=options.channels_last,
        waiting=lambda: _leave_if_asked(run),
    )  # fmt: skip
    with contextlib.closing(batches), Meter(options, state.step, world) as meter:
        while state.step < last:
            batch = _next_batch(run, state, guard, meter, batches)
            result = _iterate(run, state, objective, batch)
            meter.advance()
            if result.skipped:
                get_logger().warning("iteration %d was skipped: its loss or gradient is not finite", result.step)
            stop = _asked_to_stop(run, state)
            logs, saves = _is_due(options.logger.print_freq, state.step), stop or _saves(options, state.step)
            if logs or saves:
                _count_skipped(guard, state)
            if logs:
                record = meter.record(result, batch)
                for sink in run.sinks:
                    sink.training(record)
            if saves:
                # Before validating: "validated" still names an earlier iteration; a resumed run makes up for it.
                run.saver.save(state)
            if stop:
                raise stop_request(run, state)
            if validates(options, state.step):
                validate(run, state)
    _count_skipped(guard, state)


def _next_batch(run: Run, state: TrainState, guard: FiniteGuard, meter: Meter, batches: Iterator[Batch]) -> Batch:
    """The next batch; where a worker process has died, the user learns how the run goes on.

    Raises:
        StopRequested: a signal came while the batch was late; the state was saved.
    """
    try:
        return meter.next_of(batches)
    except WorkerError as error:
        raise WorkerError(f"{error}. Continue with {run.goes_on}") from error
    except StopRequested as stop:
        if run.world.size > 1:  # other ranks are in the middle of the iteration and would not join
            raise StopRequested(f"{stop}: continue with {run.goes_on}", stop.exit_code) from None
        _count_skipped(guard, state)
        run.saver.save(state)
        raise stop_request(run, state) from None


def _leave_if_asked(run: Run) -> None:
    """Raise StopRequested where a signal came; for moments in which no iteration will end, since its data are late."""
    if run.stop:
        raise StopRequested("stopped while the images of a batch were waited for", run.stop.exit_code)


def _iterate(run: Run, state: TrainState, objective: Objective, batch: Batch) -> StepResult:
    """One iteration; where memory runs out the state is saved and the user learns what would help."""
    try:
        return objective.step(state, batch)
    except torch.OutOfMemoryError as error:
        for player in state.players.values():
            player.optimizer.zero_grad(set_to_none=True)
        if run.world.size == 1:  # other ranks are in the middle of the iteration and would not join
            run.saver.save(state)
            run.saver.wait()
        raise MemoryError(_memory_advice(run, state, batch)) from error


def _memory_advice(run: Run, state: TrainState, batch: Batch) -> str:
    train = run.options.train
    height, width = batch.lq.shape[-2:]
    helps = [
        f"train.accumulate: {2 * train.accumulate} (now {train.accumulate})",
        *([] if train.amp else ["train.amp: bf16"]),
        *([] if train.checkpoint_activations else ["train.checkpoint_activations: true"]),
        "a smaller batch_size_per_gpu or gt_size",
    ]
    return (
        f"the memory of {state.device} is full in iteration {state.step + 1}: batch {len(batch)}, patches of "
        f"{height} x {width} low-resolution pixels, {train.amp or 'float32'}. What helps: {'; '.join(helps)}. "
        f"Continue with {run.goes_on}"
    )


def _count_skipped(guard: FiniteGuard, state: TrainState) -> None:
    """Ask what a deferred guard has seen; where nothing was, this waits for nothing."""
    skipped = guard.check()
    if skipped:
        state.skipped += skipped
        get_logger().warning("%d iterations were skipped: their loss or gradient is not finite", skipped)


def _asked_to_stop(run: Run, state: TrainState) -> bool:
    """Whether a signal came, to any rank; several ranks agree on it now and then, since agreeing takes time."""
    if run.world.size > 1 and state.step % _AGREE != 0 and state.step != run.options.train.total_iter:
        return False
    return run.world.any(bool(run.stop))


def _saves(options: TrainOptions, step: int) -> bool:
    return step == options.train.total_iter or _is_due(options.logger.save_checkpoint_freq, step)


def _is_due(frequency: int, step: int) -> bool:
    return step % frequency == 0
