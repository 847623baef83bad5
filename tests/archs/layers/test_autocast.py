from __future__ import annotations

import pytest
import torch

from archs.layers.autocast import without_autocast


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_types_stay(device: str) -> None:
    x = torch.ones(2, 2, device=device)
    with torch.autocast("cpu", torch.bfloat16):
        with without_autocast(x.device):
            assert (x @ x).dtype is torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16
