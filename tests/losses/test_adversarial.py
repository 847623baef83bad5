"""The loss of logits: what its options mean, misuse, precision; its values are in test_recorded.py."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from torch import Tensor

from losses import AdversarialLoss, GANLoss
from losses.adversarial import GANKind
from utils.errors import InputError
from utils.typed import Report, read

KINDS = get_args(GANKind)
CPU = torch.device("cpu")


def made(kind: str, **more: float) -> AdversarialLoss:
    return GANLoss(gan_type=kind, **more).build(CPU)  # type: ignore[arg-type]


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(2, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_is_the_generators_alone(kind: str, logits: Tensor) -> None:
    whole, tenth = made(kind), made(kind, loss_weight=0.1)
    assert tenth(logits, True) == 0.1 * whole(logits, True)
    for real in (True, False):
        assert tenth(logits, real, is_disc=True) == whole(logits, real, is_disc=True)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_count_where_a_label_is_compared(kind: str, logits: Tensor) -> None:
    plain, smooth = made(kind), made(kind, real_label_val=0.9, fake_label_val=0.1)
    for real, is_disc in itertools.product((True, False), (True, False)):
        differ = bool(plain(logits, real, is_disc) != smooth(logits, real, is_disc))
        assert differ is (kind in ("vanilla", "lsgan"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_discriminator_wants_real_above_fake_and_the_generator_the_opposite(kind: str) -> None:
    loss = made(kind)
    good, bad = torch.full((3, 1), 0.9), torch.full((3, 1), 0.1)
    assert loss(good, True, is_disc=True) < loss(bad, True, is_disc=True)
    assert loss(bad, False, is_disc=True) < loss(good, False, is_disc=True)
    assert loss(good, True) < loss(bad, True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_half_precision_is_widened_and_large_logits_stay_finite(kind: str, size: float) -> None:
    logits = (size * torch.tensor([[1.0, -1.0]])).half().requires_grad_()
    for real, is_disc in itertools.product((True, False), (True, False)):
        value = made(kind)(logits, real, is_disc)
        assert value.dtype == torch.float32
        [gradient] = torch.autograd.grad(value, logits)
        assert bool(value.isfinite())
        assert bool(gradient.isfinite().all())


def test_the_gradient_penalty_is_refused_with_the_next_move() -> None:
    report = Report()
    read({"gan_type": "wgan", "use_gp": True, "gp_lambda": 10}, GANLoss, report)
    with pytest.raises(InputError, match=r"use_gp: the gradient penalty is not offered.*UNetDiscriminatorSN"):
        report.raise_problems("train.gan_opt")
    report = Report()
    assert read({"gan_type": "wgan", "use_gp": False, "gp_lambda": 10}, GANLoss, report) == GANLoss(gan_type="wgan")
    assert [note.path for note in report.notes] == [("gp_lambda",)]


def test_the_kind_is_required_and_misspelt_kinds_are_answered() -> None:
    report = Report()
    read({}, GANLoss, report)
    read({"gan_type": "vanila"}, GANLoss, report)
    with pytest.raises(InputError, match=r'(?s)the key "gan_type" is missing.*did you mean "vanilla"'):
        report.raise_problems("train.gan_opt")
