from __future__ import annotations

import pytest
import torch

from archs.layers.attention import ChannelAttention
from utils.errors import InputError


def test_gate_is_read_from_the_means() -> None:
    attention = ChannelAttention(6, 3)
    x = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    state = attention.state_dict()
    assert [(key, list(value.shape)) for key, value in state.items()] == [
        ("attention.1.weight", [2, 6, 1, 1]),
        ("attention.1.bias", [2]),
        ("attention.3.weight", [6, 2, 1, 1]),
        ("attention.3.bias", [6]),
    ]
    hidden = (x.mean((2, 3)) @ state["attention.1.weight"].flatten(1).T + state["attention.1.bias"]).relu()
    gate = torch.sigmoid(hidden @ state["attention.3.weight"].flatten(1).T + state["attention.3.bias"])
    assert torch.allclose(attention(x), x * gate[..., None, None], atol=1e-6)
    assert torch.allclose(attention.gate(x)[..., 0, 0], gate, atol=1e-6)


@pytest.mark.parametrize("factor", [0, 7])
def test_no_channel_left(factor: int) -> None:
    with pytest.raises(InputError, match=f"squeezed by {factor}"):
        ChannelAttention(6, factor)
