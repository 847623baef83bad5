"""The schedule of a loss's weight, and which losses are defined for single points."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from losses import ADVERSARIAL, LOSSES, PERCEPTUAL, GANLoss, L1Loss, LossOptions, PerceptualLossOptions, factor_at
from utils.errors import InputError
from utils.typed import Report, read

POINTS = ((10, 0.0), (20, 1.0), (40, 0.5))


@pytest.mark.parametrize(
    ("iteration", "factor"),
    [(1, 0.0), (10, 0.0), (15, 0.5), (20, 1.0), (21, 0.975), (30, 0.75), (40, 0.5), (10**6, 0.5)],
)
def test_the_factor_is_linear_between_points_and_constant_outside(iteration: int, factor: float) -> None:
    assert factor_at(L1Loss(weight_schedule=POINTS), iteration) == pytest.approx(factor, abs=1e-15)


def test_without_a_schedule_the_factor_is_1() -> None:
    assert factor_at(L1Loss(), 1) == factor_at(GANLoss(gan_type="hinge"), 10**9) == 1.0


def test_one_point_is_a_constant() -> None:
    assert {factor_at(L1Loss(weight_schedule=((100, 0.25),)), iteration) for iteration in (1, 100, 200)} == {0.25}


@pytest.mark.parametrize(
    "options", [L1Loss, *({"gan_type": kind} for kind in ("vanilla", "hinge")), {"layer_weights": {"conv1_1": 1}}]
)
def test_every_loss_takes_a_schedule(options: Any) -> None:
    table = PERCEPTUAL if "layer_weights" in str(options) else ADVERSARIAL if isinstance(options, dict) else LOSSES
    report = Report()
    mapping = {**(options if isinstance(options, dict) else {}), "weight_schedule": [[0, 0], [1000, 1]]}
    found = read(mapping, next(iter(table.values())), report)
    assert not report.problems
    assert factor_at(found, 250) == 0.25


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[5, 1], [5, 2]], "have to rise, but 5 comes after 5"),
        ([[9, 1], [5, 2]], "have to rise, but 5 comes after 9"),
        ([[0, 0], [5, 0]], "no point has a factor above 0"),
        ([], "no point has a factor above 0"),
        ([[0, -1]], "expected at least 0, got -1"),
        ([[0, float("inf")]], "expected a finite number"),
        ([[0.5, 1]], "weight_schedule[0][0]: expected a whole number, got 0.5"),
        ([0, 1], "weight_schedule[1]: expected a list of 2 values, a whole number and a number, got 1"),
        (1, "each a list of 2 values, a whole number and a number or null, got 1"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(points: Any, message: str) -> None:
    report = Report()
    read({"weight_schedule": points}, L1Loss, report)
    with pytest.raises(InputError, match=re.escape(message)):
        report.raise_problems("train.pixel_opt")


def test_only_losses_of_pixels_are_defined_for_single_points() -> None:
    assert {name for name, kind in LOSSES.items() if kind.pointwise} == {"L1Loss", "MSELoss", "CharbonnierLoss"}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_finite_and_widens_half_precision(name: str) -> None:
    options: LossOptions = LOSSES[name]()
    loss = options.build(torch.device("cpu"))
    assert loss.reduction == "mean"
    target = torch.rand(2, 3, 9, 7, dtype=torch.float16, generator=torch.Generator().manual_seed(0))
    for prediction in (target.clone(), target + 0.25):
        prediction.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(prediction, target)
        value.backward()
        assert value.dtype == torch.float32
        assert value.shape == ()
        assert prediction.grad is not None
        assert bool(prediction.grad.isfinite().all())
    pair = torch.rand(2, 1, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert loss(pair[0], pair[1]).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: loss(x, pair[1]), pair[0].requires_grad_())


def test_a_perceptual_loss_has_weights_of_its_own() -> None:
    report = Report()
    read({"layer_weights": {"conv5_4": 1}, "loss_weight": 0.1}, PerceptualLossOptions, report)
    with pytest.raises(InputError, match=r"loss_weight: unknown key.*perceptual_weight, style_weight"):
        report.raise_problems("train.perceptual_opt")
