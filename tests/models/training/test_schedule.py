"""Learning rates: BasicSR's published curves, and the forms that are ours."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from config.optimizers import Adam
from config.schedulers import SCHEDULERS, CosineAnnealingLR, CosineAnnealingRestartLR, LinearLR, MultiStepLR
from config.schema import TrainingOptions
from losses import L1Loss
from models.training.schedule import learning_rate, scheduler_state
from utils.typed import Report, read


def training(
    scheduler: Any, *, lr: float = 1.0, total: int = 100, warmup: int = -1, exact: bool = False
) -> TrainingOptions:
    """The section ``train`` with this schedule."""
    return TrainingOptions(
        total_iter=total,
        optim_g=Adam(lr=lr),
        scheduler=scheduler,
        pixel_opt=L1Loss(),
        warmup_iter=warmup,
        exact_warmup=exact,
    )


@pytest.mark.shared
def test_learning_rates_follow_the_published_curves(shared: Path) -> None:
    golden = json.loads((shared / "golden/formats/learning_rate.json").read_text())
    assert len(golden["cases"]) >= 12
    for case in golden["cases"]:
        train = case["train"]
        arguments = dict(train["scheduler"])
        report = Report()
        scheduler = read(arguments, SCHEDULERS[arguments.pop("type")], report)
        assert not report.problems, case["case"]
        base = train["optim_g"]["lr"]
        options = training(scheduler, lr=base, total=train["total_iter"], warmup=train.get("warmup_iter", -1))
        for iteration, rate in case["lr_at_iteration"]:
            expected = pytest.approx(rate, rel=golden["rtol"])
            assert learning_rate(options, base, iteration) == expected, (case["case"], iteration)


def test_a_milestone_acts_after_its_iteration_and_repeats_count() -> None:
    options = training(MultiStepLR(milestones=(10, 20, 20), gamma=0.5))
    assert [learning_rate(options, 1.0, i) for i in (10, 11, 20, 21)] == [1.0, 0.5, 0.5, 0.125]


def test_a_restart_wins_over_a_milestone() -> None:
    options = training(MultiStepLR(milestones=(10, 20), gamma=0.5, restarts=(0, 20), restart_weights=(2.0, 3.0)))
    assert [learning_rate(options, 1.0, i) for i in (1, 11, 21, 30)] == [2.0, 1.0, 3.0, 3.0]


def test_warm_up_leaves_its_mark_unless_corrected() -> None:
    published = training(MultiStepLR(milestones=(5, 30), gamma=0.5), warmup=10)
    exact = training(MultiStepLR(milestones=(5, 30), gamma=0.5), warmup=10, exact=True)
    assert learning_rate(published, 1.0, 1) == learning_rate(exact, 1.0, 1) == 0.1
    assert learning_rate(published, 1.0, 10) == 0.9  # the milestone at 5 is lost
    assert learning_rate(exact, 1.0, 10) == 0.5
    assert learning_rate(published, 1.0, 31) == 0.45
    assert learning_rate(exact, 1.0, 31) == 0.25


def test_a_cosine_is_torch_s_and_past_the_last_cycle_the_minimum_holds() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    ours = training(CosineAnnealingLR(T_max=20, eta_min=0.1))
    for iteration in range(1, 31):
        assert learning_rate(ours, 1.0, iteration) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()
    cycles = training(CosineAnnealingRestartLR(periods=(10, 5), restart_weights=(1.0, 0.5), eta_min=0.01))
    assert learning_rate(cycles, 1.0, 11) == pytest.approx(0.01)
    assert learning_rate(cycles, 1.0, 12) == pytest.approx(0.01 + 0.5 * 0.99 * 0.5 * (1 + math.cos(math.pi / 5)))
    assert learning_rate(cycles, 1.0, 40) == pytest.approx(0.01)


def test_the_linear_schedule_ends_at_zero() -> None:
    options = training(LinearLR(), total=10)
    assert learning_rate(options, 2.0, 1) == 2.0
    assert learning_rate(options, 2.0, 6) == pytest.approx(1.0)
    assert learning_rate(options, 2.0, 11) == 0.0


def test_the_schedule_state_for_other_tools_has_what_they_read() -> None:
    state = scheduler_state(training(MultiStepLR(milestones=(3, 6), gamma=0.5)), [0.001], 8)
    assert state["milestones"] == {3: 1, 6: 1}
    assert state["last_epoch"] == 7
    assert state["_last_lr"] == [0.00025]
