"""Optimisers by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from config.optimizers import OPTIMIZERS, Adam, AdamW
from models.training.optim import build_optimizer, reset_momentum


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_is_torch_s_and_goes_downhill(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = build_optimizer(OPTIMIZERS[name](lr=1e-2), network)
    assert type(optimizer) is getattr(torch.optim, name)
    x = torch.rand(16, 3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (network(x) - 1).square().mean()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    assert [group["initial_lr"] for group in optimizer.param_groups] == [1e-2]


def test_optimiser_arguments_reach_torch() -> None:
    network = nn.Linear(2, 1)
    adam = build_optimizer(Adam(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1), network)
    assert (adam.defaults["betas"], adam.defaults["weight_decay"]) == ((0.9, 0.99), 0.1)
    assert build_optimizer(AdamW(lr=1e-3), network).defaults["weight_decay"] == 0.01


def test_frozen_parameters_are_not_optimised() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    [group] = build_optimizer(Adam(lr=1e-3), network).param_groups
    assert len(group["params"]) == 2


def test_weight_decay_may_leave_out_norms_and_biases() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    options = AdamW(lr=1e-3, weight_decay=0.1)
    assert len(build_optimizer(options, network).param_groups) == 1
    decayed, free = build_optimizer(options, network, decay_all=False).param_groups
    assert [list(p.shape) for p in decayed["params"]] == [[3, 2]]
    assert [list(p.shape) for p in free["params"]] == [[3], [3], [3]]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert [group["initial_lr"] for group in (decayed, free)] == [1e-3, 1e-3]


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_moments_and_their_count_are_forgotten_but_not_the_maximum_of_amsgrad(kind: type[Adam] | type[AdamW]) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = build_optimizer(kind(lr=1e-2, amsgrad=True), network)
    network(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    largest = [values["max_exp_avg_sq"].clone() for values in optimizer.state.values()]
    reset_momentum(optimizer)
    for values, kept in zip(optimizer.state.values(), largest, strict=True):
        assert not any(values[name].any() for name in ("step", "exp_avg", "exp_avg_sq"))
        assert bool(kept.all())
        assert torch.equal(values["max_exp_avg_sq"], kept)
