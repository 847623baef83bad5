"""Losses: values against the formulas, weights, reductions, low precision, and misuse."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from losses import LOSSES, CharbonnierLoss, L1Loss, LossOptions, MSELoss, PixelLoss, build
from losses.pixel import PixelLossOptions
from utils.errors import InputError
from utils.typed import Report, read


def options_of(name: str, **arguments: Any) -> LossOptions:
    """The options of a loss by its name in option files."""
    return LOSSES[name](**arguments)


def made(options: LossOptions) -> PixelLoss:
    """The loss that options build."""
    loss = build(options, torch.device("cpu"))
    assert isinstance(loss, PixelLoss)
    return loss


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(2, 3, 5, 4, generator=generator), torch.rand(2, 3, 5, 4, generator=generator)


OF_PIXELS = [name for name, options in LOSSES.items() if issubclass(options, PixelLossOptions)]
FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "L1Loss": lambda d: d.abs(),
    "MSELoss": lambda d: d * d,
    "CharbonnierLoss": lambda d: torch.sqrt(d * d + 1e-12),
}


@pytest.mark.parametrize("name", OF_PIXELS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_equals_its_formula_under_every_reduction(name: str, reduction: str, pair: tuple[Tensor, Tensor]) -> None:
    values = FORMULAS[name](pair[0] - pair[1])
    expected = {"mean": values.mean(), "sum": values.sum(), "none": values}[reduction]
    loss = made(options_of(name, loss_weight=0.5, reduction=reduction))
    torch.testing.assert_close(loss(*pair), 0.5 * expected)


@pytest.mark.parametrize("name", OF_PIXELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_weighted_loss_equals_its_formula(name: str, channels: int, pair: tuple[Tensor, Tensor]) -> None:
    weight = torch.rand(2, channels, 5, 4, generator=torch.Generator().manual_seed(4))
    everywhere = weight.expand(2, 3, 5, 4)
    values = FORMULAS[name](pair[0] - pair[1]) * everywhere
    torch.testing.assert_close(made(options_of(name))(*pair, weight=weight), values.sum() / everywhere.sum())
    torch.testing.assert_close(made(options_of(name, reduction="sum"))(*pair, weight=weight), values.sum())
    torch.testing.assert_close(made(options_of(name, reduction="none"))(*pair, weight=weight), values)


def test_a_weight_of_ones_changes_nothing(pair: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(made(L1Loss())(*pair, weight=torch.ones(2, 1, 5, 4)), made(L1Loss())(*pair))


@pytest.mark.parametrize("name", OF_PIXELS)
def test_gradient_is_finite_where_images_agree(name: str) -> None:
    image = torch.rand(1, 3, 4, 4, dtype=torch.float16, requires_grad=True)
    loss = made(options_of(name))(image, image.detach().clone())
    loss.backward()
    assert loss.dtype == torch.float32
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_gradients_of_losses_pass_gradcheck() -> None:
    prediction = torch.rand(1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 3, 3, 3, dtype=torch.float64)
    for loss in map(made, (L1Loss(), MSELoss(), CharbonnierLoss(eps=1e-3))):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, target), prediction)


def test_prediction_and_target_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, 3, 4, 4\] and target \[1, 1, 4, 4\] differ"):
        made(L1Loss())(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="does not fit"):
        made(L1Loss())(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), weight=torch.zeros(4, 4))
    with pytest.raises(ValueError, match="does not fit"):
        made(L1Loss())(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), weight=torch.zeros(2, 3, 4, 4))


def test_options_of_a_loss_are_frozen_and_read_from_text() -> None:
    loss = L1Loss()
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss.loss_weight = 2.0  # type: ignore[misc]
    report = Report()
    charbonnier = read({"loss_weight": 2, "eps": 1e-6}, CharbonnierLoss, report)
    assert charbonnier == CharbonnierLoss(loss_weight=2.0, eps=1e-6)
    value = float(made(charbonnier)(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)))
    assert value == pytest.approx(2 * math.sqrt(1 + 1e-6), rel=1e-6)
    read({"reduction": "meen"}, L1Loss, report)
    read({"eps": 0}, CharbonnierLoss, report)
    with pytest.raises(InputError, match=r'(?s)did you mean "mean".*at least'):
        report.raise_problems("loss")


@pytest.mark.parametrize("name", [name for name, kind in LOSSES.items() if issubclass(kind, PixelLossOptions)])
def test_an_unknown_reduction_is_refused_in_python_too(name: str) -> None:
    with pytest.raises(InputError, match=f'{name}: reduction: expected one of mean, sum, none, got "unknown"'):
        options_of(name, reduction="unknown")
    with pytest.raises(InputError, match="PixelLoss: reduction: expected one of mean, sum, none, got 'unknown'"):
        PixelLoss(1.0, "unknown", torch.abs)  # type: ignore[arg-type]
