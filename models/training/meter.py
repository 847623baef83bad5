"""How long iterations take, on a progress bar and in the records of the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType

from config.schema import TrainOptions
from data.loader import Batch
from models.distributed import World
from models.training.sinks import TrainRecord
from models.training.step import StepResult
from utils.env import peak_memory
from utils.progress import Progress


class Meter:
    """Times of the iterations since the last record, and the progress bar of the run.

    Args:
        options: batch size, number of iterations, name.
        step: iterations that an earlier run has done.
        world: all ranks, whose images count.
    """

    def __init__(self, options: TrainOptions, step: int, world: World) -> None:
        self.images = options.train_dataset.batch_size_per_gpu * world.size
        self.total = options.train.total_iter
        self.first = self.logged = step
        self.started = self.since = time.monotonic()
        self.waited = 0.0
        self.bar = Progress(self.total, options.name, unit="iter", done=step, shown=world.is_main)

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.finish(keep=error is None)

    def next_of(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; the time spent waiting for it is added up."""
        asked = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - asked
        return batch

    def advance(self) -> None:
        """An iteration is done."""
        self.bar.advance()

    def record(self, result: StepResult, batch: Batch) -> TrainRecord:
        """What happened since the last call; reading the losses waits for the device, once per record."""
        losses = {name: float(value) for name, value in result.losses.items()}
        now = time.monotonic()
        count = result.step - self.logged
        seconds, waited = (now - self.since) / count, self.waited / count
        per_step = (now - self.started) / (result.step - self.first)
        record = TrainRecord(
            step=result.step, epoch=batch.epoch, rates=result.rates, losses=losses,
            grad_norms={player: float(norm) for player, norm in result.grad_norms.items()},
            images_per_second=self.images / seconds, seconds=seconds, data_seconds=waited,
            eta_seconds=per_step * (self.total - result.step), memory=peak_memory(batch.lq.device),
        )  # fmt: skip
        self.logged, self.since, self.waited = result.step, now, 0.0
        name, value = next(iter(losses.items()))
        self.bar.note = f"{name} {value:.4f}  data wait {record.data_share:.0%}"
        return record
