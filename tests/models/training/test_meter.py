"""The progress bar of a training run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.loader import Batch
from models.distributed import World
from models.training.meter import Meter
from models.training.step import StepResult

OPTIONS: Any = SimpleNamespace(
    name="run", train=SimpleNamespace(total_iter=500), train_dataset=SimpleNamespace(batch_size_per_gpu=8)
)


def test_the_bar_counts_what_the_log_counts_and_shows_the_loss_of_its_last_line() -> None:
    batch = Batch.of_pair(torch.zeros(8, 3, 4, 4), torch.zeros(8, 3, 8, 8), ("a.png",) * 8, epoch=0)
    with Meter(OPTIONS, 100, World()) as meter:
        for step in range(101, 121):
            meter.advance()
            if step % 10 == 0:
                losses = {"l_pix": torch.tensor(1 / step)}
                result = StepResult(step=step, losses=losses, rates={"g": (1e-3,)}, grad_norms={})
                record = meter.record(result, batch)
        line = meter.bar.line(200)
    assert record.step == 120
    assert " run 120/500 " in line
    assert "iter/s" in line
    assert "l_pix 0.0083" in line


def test_one_bar_is_drawn_for_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.progress.can_redraw", lambda stream: True)
    drawn = []
    for rank in (0, 1):
        with Meter(OPTIONS, 0, World(rank=rank, size=2)) as meter:
            drawn.append(meter.bar.terminal)
    assert drawn == [True, False]
