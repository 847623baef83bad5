"""A training run, from options to weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from config.command import Command
from config.schema import TrainOptions
from data import TrainDataset
from data.loader import Batch, train_batches
from data.patches.options import PatchOptions
from models.distributed import World
from models.training.demand import batch_advice, data_advice, of_batch
from models.training.finite import FiniteGuard
from models.training.meter import Meter
from models.training.rescue import state_kept
from models.training.run import PageSink, Run, alone, opened
from models.training.state import TrainState
from models.training.step import StepResult
from models.training.validation import report_lag, stop_request, validate, validates
from utils.devices import abilities
from utils.errors import InputError, StopRequested
from utils.heap import give_freed_memory_back, keep_freed_memory
from utils.log import get_logger
from utils.memory import FullMemoryError, memory_for
from utils.seed import random_state_before
from utils.signals import catch_signals

_OTHER_PROGRAMS = "closing other programs, or a machine with more memory"
_AGREE = 10  # iterations between two agreements of several ranks whether to stop


def train(options: TrainOptions, command: Command, world: World, page: PageSink | None = None) -> TrainState:
    """Train as the options say; saves checkpoints, validates, logs.

    Args:
        options: what is trained.
        command: what was typed.
        world: all ranks.
        page: makes the sink that keeps the page of a run's folder up to date, for ``logger.report``.

    Raises:
        InputError: an option, a file or the data cannot be used, or another process trains in the run's folder.
        StopRequested: SIGINT or SIGTERM came; the state was saved.
        NonFiniteLossError: see :func:`models.training.step.finish_step`.
        FullMemoryError: the memory is full; the state of the last whole iteration was saved.
        WorkerError: a worker process died; likewise.
        RunError: an image or a folder can no longer be used; likewise.
        StorageError: writing failed; the previous checkpoint is whole.
    """
    with (
        alone(options, command, world),
        catch_signals() as stop,
        opened(options, command, world, stop, page) as (run, state, dataset),
    ):
        if abilities(state.device).in_main_memory:
            keep_freed_memory()  # a step frees and takes the same blocks as the one before
        train_until(options.train.total_iter, run, state, dataset)
        if options.val is None:
            report_lag(run, state)
        latest = run.saver.save_latest(state)
        if latest is not None:
            get_logger().info("done: %s iterations; the weights are in %s", f"{state.step:,}", latest)
            get_logger().info("one page that shows the run: %s", run.folder.page_command)
        world.barrier()
    return state


def train_until(last: int, run: Run, state: TrainState, dataset: TrainDataset) -> None:
    """Iterations up to and including ``last``, each with what is due after it: logging, saving, validating.

    Raises:
        FullMemoryError, WorkerError, RunError: see :func:`models.training.rescue.state_kept`.
    """
    with state_kept(run, state), memory_for(f"the training {run.options.name}", _OTHER_PROGRAMS):
        _validate_first(run, state)
        guard = run.objective.guard
        with memory_for(f"images and worker processes of {dataset.name}", data_advice(run.options)):
            batches = train_batches(
                dataset, run.options.train_dataset, start=state.step, stop=run.options.train.total_iter,
                rank=run.world.rank, world_size=run.world.size, device=state.device,
                channels_last=run.options.channels_last, waiting=lambda: _leave_if_asked(run),
            )  # fmt: skip
        with contextlib.closing(batches), Meter(run.options, state.step, run.world) as meter:
            while state.step < last:
                batch = _next_batch(run, state, guard, meter, batches)
                result = _iterate(run, state, batch)
                meter.advance()
                _after_iteration(run, state, guard, meter, result, batch)
        _count_skipped(guard, state)


def _validate_first(run: Run, state: TrainState) -> None:
    """The validation that is due before the next iteration, if there is one."""
    options = run.options
    if state.step > max(state.validated, 0) and validates(options, state.step):
        _validate(run, state)  # the run was left between saving and validating
    elif options.val is not None and options.val.val_first and state.step == 0:
        _validate(run, state)


def _after_iteration(
    run: Run, state: TrainState, guard: FiniteGuard, meter: Meter, result: StepResult, batch: Batch
) -> None:
    """What is due after an iteration.

    Raises:
        StopRequested: a signal came; the state was saved.
    """
    options = run.options
    if result.skipped:
        get_logger().warning("iteration %d was skipped: its loss or gradient is not finite", result.step)
    stop = _asked_to_stop(run, state)
    logs, saves = _is_due(options.logger.print_freq, state.step), stop or _saves(options, state.step)
    if logs or saves:
        _count_skipped(guard, state)
    if logs:
        record = meter.record(result, batch)
        state.unlogged = record.as_json()
        for sink in run.sinks:
            sink.training(record)
        state.unlogged = None
        advice = run.objective.advice(record.step, record.losses)
        if advice is not None and run.world.is_main:
            get_logger().warning("%s", advice)
    if saves:
        # Before validating: "validated" still names an earlier iteration; a resumed run makes up for it.
        run.saver.save(state)
    if stop:
        raise stop_request(run, state)
    if validates(options, state.step):
        _validate(run, state)


def _validate(run: Run, state: TrainState) -> None:
    """Validate; what iterations have left goes back to the system before, as images take memory of their own."""
    in_main_memory = abilities(state.device).in_main_memory
    if in_main_memory:
        give_freed_memory_back()
    validate(run, state)
    if in_main_memory:
        give_freed_memory_back()


def _next_batch(run: Run, state: TrainState, guard: FiniteGuard, meter: Meter, batches: Iterator[Batch]) -> Batch:
    """The next batch.

    Raises:
        StopRequested: a signal came while the batch was late; the state was saved.
    """
    training = run.options.train_dataset
    try:
        with memory_for(f"the batch of iteration {state.step + 1}", partial(data_advice, run.options)):
            return meter.next_of(batches)
    except InputError as error:
        if not isinstance(training, PatchOptions) or training.on_error == "skip":
            raise
        raise InputError(f"{error}. To go on without such images: datasets.train.on_error: skip") from error
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


def _iterate(run: Run, state: TrainState, batch: Batch) -> StepResult:
    """One iteration; where memory runs out, ``state`` and the random generators are as they were before it.

    The weights are, unless ``state.moving`` says that they are not.
    """
    what = f"iteration {state.step + 1} on {state.device}, {of_batch(run.options, batch)}"
    # Dropout has drawn for the iteration, which the resumed run begins anew.
    advice = partial(batch_advice, run.options)  # asked for where memory is full: it looks at the network's arguments
    with random_state_before(state.device, FullMemoryError), memory_for(what, advice):
        return run.objective.step(state, batch)


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
