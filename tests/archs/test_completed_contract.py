"""What callers see of networks from elsewhere, which say less than ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archs.contract import BaseNetwork, SRNetwork, contract_of
from archs.layers.size import SizeRule


class Foreign(nn.Module):
    """Says its scale and nothing else."""

    def __init__(self, scale: Any = 2) -> None:
        super().__init__()
        self.scale: Any = scale

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_a_scale_alone_is_completed_by_defaults() -> None:
    network = Foreign()
    assert not isinstance(network, SRNetwork)
    offered = contract_of(network)
    assert isinstance(offered, SRNetwork)
    assert (offered.scale, offered.channels, offered.size_rule) == (2, 3, SizeRule())
    assert (offered.receptive_radius, offered.window_size) == (None, None)
    assert offered.graph_sizes == (1, None)
    assert offered.for_inference() is network
    state = {"weight": torch.zeros(1)}
    assert offered.adapt_state(state) == state
    assert offered.adapt_state(state) is not state
    assert offered.forward(torch.zeros(1, 3, 4, 5)).shape == (1, 3, 8, 10)


def test_what_a_foreign_network_says_is_taken() -> None:
    network = Foreign(4)
    folded = nn.Identity()
    facts = {
        "channels": 1, "size_rule": SizeRule(multiple=8), "window_size": 8, "receptive_radius": 5,
        "graph_sizes": (8, 64),
    }  # fmt: skip
    for name, value in {**facts, "for_inference": lambda: folded, "adapt_state": lambda state: {}}.items():
        object.__setattr__(network, name, value)
    object.__delattr__(network, "receptive_radius")  # one part is missing, so it does not meet the contract by itself
    offered = contract_of(network)
    assert (offered.scale, offered.channels, offered.size_rule.multiple, offered.window_size) == (4, 1, 8, 8)
    assert offered.receptive_radius is None
    assert offered.graph_sizes == (8, 64)
    assert offered.for_inference() is folded
    assert offered.adapt_state({"weight": torch.zeros(1)}) == {}


@pytest.mark.parametrize("scale", [None, "2", 0.5])
def test_a_network_without_a_scale_is_refused_when_asked_for_it(scale: Any) -> None:
    offered = contract_of(Foreign(scale))
    with pytest.raises(ValueError, match=r"Foreign has no number `scale` .*; pass the network itself"):
        _ = offered.scale


def test_the_base_class_leaves_what_a_network_must_say_itself() -> None:
    class Silent(BaseNetwork):
        pass

    assert not isinstance(Silent(), SRNetwork)
