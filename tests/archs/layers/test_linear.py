"""The layer stands in the place of torch's."""

from __future__ import annotations

import torch
from torch import nn

from archs.layers.linear import Linear, initialise_linear


def test_it_is_the_layer_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(6, 4), nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.with_gelu(x), nn.functional.gelu(theirs(x)))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))
        torch.testing.assert_close(ours.with_gelu(x), nn.functional.gelu(theirs(x)))


def test_initial_weights_are_small_and_cut_off_and_a_bias_is_zero() -> None:
    layer = Linear(100, 100)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initialise_linear(layer)
        initialise_linear(Linear(4, 4, bias=False))
    assert 0.015 < layer.weight.std() < 0.025
    assert layer.weight.abs().max() <= 2
    assert not layer.bias.any()
