"""Buffers that passes move are put back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.training.buffers import KeptBuffers


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    made.register_buffer("empty", torch.zeros(0))
    return made


def values(module: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in module.buffers()]


@pytest.mark.parametrize("where", [None, True, False])
def test_buffers_are_put_back_where_they_are_to_be(where: bool | None) -> None:
    module = network()
    kept = KeptBuffers.of(module)
    for _ in range(2):
        before = values(module)
        kept.keep()
        module(torch.rand(2, 3, 8, 8))
        after = values(module)
        assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        kept.put_back(None if where is None else torch.tensor(where))
        expected = after if where is False else before
        assert all(torch.equal(a, b) for a, b in zip(expected, module.buffers(), strict=True))


def test_what_is_not_a_number_does_not_stay() -> None:
    module = network()
    kept = KeptBuffers.of(module)
    kept.keep()
    before = values(module)
    module(torch.full((2, 3, 8, 8), torch.nan))
    kept.put_back(torch.tensor(True))
    assert all(torch.equal(a, b) for a, b in zip(before, module.buffers(), strict=True))


def test_a_network_without_buffers_costs_nothing() -> None:
    kept = KeptBuffers.of(nn.Conv2d(3, 3, 3))
    kept.keep()
    kept.put_back()
    kept.put_back(torch.tensor(True))
    assert kept.groups == ()
