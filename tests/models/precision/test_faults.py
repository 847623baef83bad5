from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archs import build_network
from models.precision.faults import first_fault
from models.precision.network import in_precision
from tests.archs.test_contract import SMALL, image


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Chain(nn.Module):
    """Ten thousand in the middle: its square is more than float16 holds, and is made between the layers."""

    scale = 1

    def __init__(self, *, square: bool) -> None:
        super().__init__()
        self.square = square
        self.first = nn.Conv2d(3, 3, 1)
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.last = nn.Conv2d(3, 3, 1)
        layers: Any = (self.first, self.body[0], self.last)
        for layer, factor in zip(layers, (1e4, 1.0 if square else 100.0, 1e-8), strict=True):
            nn.init.zeros_(layer.bias)
            layer.weight.copy_(factor * torch.eye(3)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(self.first(x))
        return self.last(y * y if self.square else y)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("square", "expected"), [(False, "in the layer body.0 (convolution)"), (True, "between the layers (mul)")]
)
def test_the_layer_that_overflows_is_named(square: bool, expected: str) -> None:
    x = torch.ones(1, 3, 2, 2)
    network = Chain(square=square)
    assert network(x).isfinite().all()
    half = in_precision(network, "fp16")
    assert not half(x).isfinite().all()
    said = first_fault(half, lambda: half(x))
    assert said is not None
    assert said.startswith(f"in float16, first {expected}; float16 ends at 65504: let scripts/range_report.py find")
    assert in_precision(network, "bf16")(x).isfinite().all()


def test_weights_that_another_module_uses_are_named() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = build_network({"type": "HAT", **SMALL["HAT"]}).eval()
    network.layers[0].residual_group.blocks[1].mlp.fc1.weight.mul_(1e7)  # its block calls it without forward()
    half = in_precision(network, "fp16")
    x = image(network)
    said = first_fault(half, lambda: half(x))
    assert said is not None
    assert "first in the layer layers.0.residual_group.blocks.1.mlp.fc1 (addmm; its weights are not finite)" in said


def test_of_finite_numbers_and_other_networks_nothing_is_said() -> None:
    x = torch.ones(1, 3, 2, 2)
    network = Chain(square=False)
    for other in (network, in_precision(network, "bf16")):
        calls: list[Any] = []
        assert first_fault(other, lambda: calls.append(other(x))) is None  # noqa: B023
        assert len(calls) == (other is not network)
    assert not network._forward_hooks
    assert not network.first._forward_pre_hooks


def test_weights_that_are_no_numbers_are_no_matter_of_precision() -> None:
    network: Any = Chain(square=False)
    network.first.bias[1] = torch.nan
    half = in_precision(network, "bf16")
    said = first_fault(half, lambda: half(torch.ones(1, 3, 2, 2)))
    assert said is not None
    assert said.startswith("in bfloat16, first in the layer first (convolution; its weights are not finite); bfloat16")
    assert said.endswith("are these weights sound?")
