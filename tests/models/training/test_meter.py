"""The progress bar of a training run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from data.loader import Batch
from models.distributed import World
from models.training.meter import Meter
from models.training.step import StepResult


def test_the_bar_counts_what_the_log_counts_and_shows_the_loss_of_its_last_line() -> None:
    options: Any = SimpleNamespace(
        name="run", train=SimpleNamespace(total_iter=500), train_dataset=SimpleNamespace(batch_size_per_gpu=8)
    )
    batch = Batch.of_pair(torch.zeros(8, 3, 4, 4), torch.zeros(8, 3, 8, 8), ("a.png",) * 8, epoch=0)
    with Meter(options, 100, World()) as meter:
        for step in range(101, 121):
            meter.advance()
            if step % 10 == 0:
                result = StepResult(step=step, losses={"l_pix": torch.tensor(1 / step)}, lr=(1e-3,), grad_norm=None)
                record = meter.record(result, batch)
        line = meter.bar.line(200)
    assert record.step == 120
    assert " run 120/500 " in line
    assert "iter/s" in line
    assert "l_pix 0.0083" in line
