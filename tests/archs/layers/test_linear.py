"""The layer stands in the place of torch's."""

from __future__ import annotations

import torch
from torch import nn

from archs.layers.linear import Linear


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
