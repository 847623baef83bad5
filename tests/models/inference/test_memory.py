"""What networks need, measured; how it becomes a size of tiles; what is free."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from archs.layers.size import SizeRule
from models.inference import memory
from models.inference.memory import Demand, find_tile, free_memory, measure, smallest_tile
from utils.env import available_memory


class Squares(nn.Module):
    """Keeps 4 k n bytes, and with ``attention`` 4 n**2 bytes, for n pixels."""

    scale = 1

    def __init__(self, k: int, attention: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(k, 1))
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """[1, 3, h, w] -> the same."""
        flat = x[:, :1].flatten(2)  # [1, 1, n]
        features = self.weight * flat  # [1, k, n]
        if self.attention:
            scores = flat.transpose(1, 2) * flat  # [1, n, n]
            return x + scores.sum() + features.sum()
        return x + features.sum()


@pytest.mark.parametrize("k", [10, 40])
def test_memory_of_a_network_linear_in_pixels_is_measured(k: int) -> None:
    demand = measure(Squares(k))
    assert demand.square == pytest.approx(0, abs=0.01)
    assert 4 * k <= demand.linear <= 4 * (k + 12)
    assert abs(demand.pixels(1e6) - 1e6 / demand.linear) <= 1


def test_memory_of_a_network_quadratic_in_pixels_is_measured() -> None:
    demand = measure(Squares(10, attention=True))
    assert demand.square == pytest.approx(4, rel=0.05)


@given(st.floats(0, 1e5), st.floats(0, 10), st.floats(1e4, 1e12))
def test_pixels_are_the_most_that_a_budget_suffices_for(linear: float, square: float, budget: float) -> None:
    n = Demand(linear, square).pixels(budget)
    linear = max(linear, 1.0)

    def needed(pixels: int) -> float:
        return linear * pixels + square * pixels * pixels

    assert needed(n) <= budget * (1 + 1e-9)
    assert needed(n + 1) >= budget * (1 - 1e-9)


def test_the_largest_tile_that_fits_the_budget_is_found() -> None:
    network = Squares(1)
    network.size_rule = SizeRule(tile_multiple=16)  # type: ignore[assignment]
    demand = Demand(100, 0)
    assert find_tile(network, 100, 100, 8, demand, 1_000_000) is None
    assert find_tile(network, 101, 100, 8, demand, 1_000_000) == 100
    assert find_tile(network, 1000, 1000, 8, demand, 10) == smallest_tile(network, 8) == 32


def test_free_memory_is_a_share_of_what_the_host_has_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    assert free_memory(torch.device("cpu")) == 400
    assert free_memory(torch.device("cpu"), reserved=500) == 200
    assert free_memory(torch.device("cpu"), reserved=5000) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # ranks that torchrun has started
    assert free_memory(torch.device("cpu")) == 100
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert free_memory(torch.device("cpu")) is None


def test_available_memory_keeps_to_the_limit_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "max").write_text("5000\n")
    (tmp_path / "current").write_text("4000\n")
    limits = [(str(tmp_path / "max"), str(tmp_path / "current"))]
    assert available_memory(limits) == 1000
    # Files that were read fill a container up to its limit; the system drops them when memory is asked for.
    (tmp_path / "memory.stat").write_text("anon 1500\nfile 2500\nactive_file 500\ninactive_file 2000\nshmem 0\n")
    assert available_memory(limits) == 3500
    (tmp_path / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 300\ntotal_active_file 200\n")
    assert available_memory(limits) == 1500  # control groups 1 have the sums of all groups below, too
    (tmp_path / "max").write_text("max\n")
    found = available_memory(limits)
    assert found is None or found > 10_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_is_measured_on_a_gpu() -> None:
    device = torch.device("cuda")
    free = free_memory(device)
    assert free is not None
    assert free > 2**20
    demand = measure(Squares(40).to(device))
    assert 160 <= demand.linear <= 300
