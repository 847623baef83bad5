"""The moving average of weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from archs import build_network
from models.training.ema import make_ema, tensors_of, update_ema


def test_ema_parameters_are_averaged_and_buffers_copied() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    ema = make_ema(network)
    before = {name: value.clone() for name, value in ema.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    network.forward(torch.rand(4, 3))  # moves the running statistics and the counter
    update_ema(tensors_of(ema), tensors_of(network), 0.9)
    for name, value in ema.named_parameters():
        torch.testing.assert_close(value, before[name] + 0.1)
    for (name, mine), theirs in zip(ema.named_buffers(), network.buffers(), strict=True):
        assert torch.equal(mine, theirs), name


def test_ema_weights_are_not_trained_and_share_no_memory() -> None:
    network = nn.Linear(2, 2)
    ema = make_ema(network)
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert next(ema.parameters()).data_ptr() != network.weight.data_ptr()
    assert network.weight.requires_grad


def test_what_an_evaluated_ema_network_caches_is_renewed_by_an_update() -> None:
    network = build_network({
        "type": "HAT", "upscale": 2, "window_size": 4, "embed_dim": 12, "depths": [2], "num_heads": [2],
        "squeeze_factor": 3,
    })  # fmt: skip
    ema = make_ema(network)
    x = torch.rand(1, 3, 8, 8)
    averages, values = tensors_of(ema), tensors_of(network)
    with torch.no_grad():
        ema(x)  # computes and keeps the dense position bias
        for parameter in network.parameters():
            parameter.add_(0.5)
        update_ema(averages, values, 0.5)
        torch.testing.assert_close(ema(x), copy.deepcopy(ema)(x))
