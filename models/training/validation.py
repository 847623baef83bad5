"""Validation during a training run: scores and pictures of the EMA weights, to the sinks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from config.schema import TrainOptions
from data import Sample, to_uint8
from models.evaluation.evaluate import EvalReport, evaluate
from models.evaluation.pictures import PictureWriter, comparison_picture
from models.evaluation.tester import arithmetic_for
from models.training.ema import lag
from models.training.run import Run
from models.training.sinks import ValidationRecord
from models.training.state import TrainState
from utils.errors import StopRequested
from utils.log import get_logger

_PICTURES = 4  # validation images shown in TensorBoard


def validates(options: TrainOptions, step: int) -> bool:
    """Whether iteration ``step`` is followed by a validation: every ``val_freq`` iterations, and at the end."""
    if options.val is None:
        return False
    frequency = options.val.val_freq
    return step == options.train.total_iter or (frequency is not None and step % frequency == 0)


def validate(run: Run, state: TrainState) -> None:
    """Score every validation set with the EMA weights, and keep the best ones.

    Images without a score (one that can no longer be read, an output that is not finite) are reported, and the set has
    no mean: no best value changes, and the training goes on. Where the weights are at fault, the loss of the next
    iteration says so.

    Raises:
        FullMemoryError: the memory is full.
        StopRequested: a signal came; the state was saved.
    """
    options = run.options
    assert options.val is not None
    # Ranks that leave the evaluation at different images would wait for each other for ever.
    stop = run.stop if run.world.size == 1 else None
    arithmetic = arithmetic_for(options, state.device, log=False)
    for position, dataset in enumerate(run.validation):
        album = _Album(run, dataset.name, state.step, options.val.save_img)
        try:
            report = evaluate(
                state.generator.evaluated, dataset, options.val, device=state.device, tile=options.tile,
                channels_last=options.channels_last, world=run.world, keep=album.keep, stop=stop,
                arithmetic=arithmetic,
            )  # fmt: skip
        except StopRequested as request:
            run.saver.save(state)
            raise stop_request(run, state) from request
        finally:
            album.finish()
        improved = _record(run, state, report, album.pictures)
        if improved and position == 0 and options.logger.keep_best:
            run.saver.save_best(state)
    state.validated = state.step
    report_lag(run, state)


def report_lag(run: Run, state: TrainState) -> None:
    """Log that the EMA weights are far behind the trained ones, where they are."""
    behind = None if state.generator.ema is None else lag(run.options.train, state.step)
    if behind is not None:
        get_logger().info("%s", behind)


def stop_request(run: Run, state: TrainState) -> StopRequested:
    """What to raise when a run stops because of a signal, once its state is on the disk; called by every rank.

    Raises:
        StorageError: the rank that writes could not.
    """
    run.world.together(run.saver.wait)  # other ranks say that it is saved when the one that writes is done
    return StopRequested(
        f"stopped at iteration {state.step:,}; {run.saver.folder.state(state.step)} is saved: continue with "
        f"{run.goes_on}",
        run.stop.exit_code or 143,  # another rank got the signal
    )


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


def _record(run: Run, state: TrainState, report: EvalReport, pictures: dict[str, NDArray[np.uint8]]) -> bool:
    """Hand a report to the sinks; whether the first metric is better than ever."""
    assert run.options.val is not None
    if report.faults and run.world.is_main:
        get_logger().warning("iteration %s: %s; the best scores stay as they are", f"{state.step:,}", report.faults)
    found = {
        metric: state.record(report.dataset, metric, value, run.options.val.metrics[metric].better)
        for metric, value in report.scores.items()
    }
    best = {metric: value for metric, value in found.items() if value is not None}
    record = ValidationRecord(state.step, report.dataset, report.scores, best, pictures, report.as_json())
    for sink in run.sinks:
        sink.validation(record)
    first = next(iter(found.values()), None)
    return first is not None and first.step == state.step
