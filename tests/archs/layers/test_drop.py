from __future__ import annotations

import pytest
import torch

from archs.layers.drop import DropPath, drop_path_rates
from utils.errors import InputError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drops_whole_samples_and_keeps_the_mean(dtype: torch.dtype) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        y = DropPath(0.25)(torch.ones(2000, 2, 3, dtype=dtype))
    kept = y[:, 0, 0] != 0
    assert y.dtype is dtype
    assert torch.equal(y, torch.where(kept, torch.tensor(1 / 0.75, dtype=dtype), 0)[:, None, None].expand(2000, 2, 3))
    assert abs(kept.float().mean() - 0.75) < 0.03


def test_does_nothing_in_evaluation_or_without_a_rate() -> None:
    x = torch.ones(2, 3)
    assert DropPath(0.5).eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_rates() -> None:
    assert drop_path_rates(0.1, 5) == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    assert drop_path_rates(0.1, 1) == [0]
    with pytest.raises(InputError, match="below 1, got 1"):
        DropPath(1)
    assert "rate=0.1" in repr(DropPath(0.1))
