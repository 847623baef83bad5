"""A warning where the discriminator has won, and none where it has not."""

from __future__ import annotations

import math

import pytest
import torch

from losses import GANLoss
from models.training.objectives.balance import Balance

LN2 = math.log(2)


def balance(kind: str, *, relativistic: bool = False, after: int = 0, real: float = 1.0) -> Balance:
    options = GANLoss(gan_type=kind, real_label_val=real)  # type: ignore[arg-type]
    return Balance(options.build(torch.device("cpu")), relativistic=relativistic, after=after)


@pytest.mark.parametrize(
    ("kind", "relativistic", "real", "best", "guessing"),
    [
        ("vanilla", False, 1.0, 0.0, 2 * LN2),
        ("vanilla", True, 1.0, 0.0, LN2),
        # The entropy of a label of 0.9, and twice that of labels of 0.45.
        ("vanilla", False, 0.9, 0.3250830, 2 * 0.6881388),
        ("lsgan", False, 1.0, 0.0, 0.5),
        ("lsgan", True, 1.0, 0.0, 0.5),
        ("hinge", False, 1.0, 0.0, 2.0),
        ("wgan_softplus", False, 1.0, 0.0, 2 * LN2),
    ],
)
def test_the_bounds_of_the_losses(kind: str, relativistic: bool, real: float, best: float, guessing: float) -> None:
    found = balance(kind, relativistic=relativistic, real=real)
    assert (found.best, found.guessing) == pytest.approx((best, guessing), abs=2e-3)


def said(watch: Balance, total: float, steps: range) -> list[int]:
    """The iterations at which there is advice, where the two losses are equal and add up to ``total``."""
    return [step for step in steps if watch.advice(step, {"l_d_real": total / 2, "l_d_fake": total / 2}) is not None]


def test_it_speaks_once_and_only_after_a_row() -> None:
    watch = balance("vanilla")
    assert said(watch, 0.1, range(100, 500, 100)) == []
    assert said(watch, 1.0, range(500, 600, 100)) == []  # the row begins anew
    assert said(watch, 0.1, range(600, 3000, 100)) == [1000]


@pytest.mark.parametrize("total", [0.2, 2 * LN2, 3.0, math.nan])
def test_an_undecided_game_is_left_alone(total: float) -> None:
    assert said(balance("vanilla"), total, range(100, 3000, 100)) == []


def test_labels_between_0_and_1_are_no_reason() -> None:
    """The loss of a faultless discriminator is not 0 then."""
    assert said(balance("vanilla", real=0.9), 0.33, range(100, 3000, 100)) == [500]
    assert said(balance("vanilla", real=0.9), 0.5, range(100, 3000, 100)) == []


def test_where_it_is_trained_alone_it_may_win() -> None:
    assert said(balance("vanilla", after=1000), 0.01, range(100, 3000, 100)) == [1500]


def test_a_loss_without_bounds_says_nothing() -> None:
    assert said(balance("wgan"), -100.0, range(100, 3000, 100)) == []


def test_it_says_what_helps() -> None:
    watch = balance("hinge")
    texts = [watch.advice(step, {"l_d_real": 0.01, "l_d_fake": 0.02}) for step in range(1, 6)]
    assert texts[:-1] == [None] * 4
    assert "l_d_real + l_d_fake was near 0.00 (now 0.030; 2.00: guessing)" in str(texts[-1])
    assert "a lower lr in train.optim_d" in str(texts[-1])
