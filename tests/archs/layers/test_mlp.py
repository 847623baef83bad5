from __future__ import annotations

import torch

from archs.layers.mlp import Mlp


def test_mlp() -> None:
    mlp = Mlp(4, 6, drop=0.5).eval()
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    hidden = mlp.fc1(x)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    assert torch.allclose(mlp(x), mlp.fc2(hidden), atol=1e-6)
    assert list(mlp.state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert not torch.equal(mlp.train()(x), mlp(x))
