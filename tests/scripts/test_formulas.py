"""The baselines of HAT and RGT compute what this project's networks compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archs import build_network
from scripts.benchmarks.formulas.build import by_formulas

HAT: Mapping[str, Any] = {
    "type": "HAT", "upscale": 4, "window_size": 4, "compress_ratio": 3, "squeeze_factor": 3, "conv_scale": 0.5,
    "depths": [2, 1], "embed_dim": 12, "num_heads": [2, 3], "mlp_ratio": 2, "drop_path_rate": 0.0,
}  # fmt: skip
RGT: Mapping[str, Any] = {
    "type": "RGT", "upscale": 4, "depth": [3, 2], "embed_dim": 36, "num_heads": [2, 6], "mlp_ratio": 2,
    "split_size": [4, 8], "c_ratio": 0.5, "drop_path_rate": 0.0,
}  # fmt: skip


def step(network: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Its result and its gradients."""
    out = network.train()(x)
    out.square().sum().backward()
    return out.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("configuration", "size"), [(HAT, (8, 12)), (RGT, (20, 19))], ids=["HAT", "RGT"])
def test_formulas_agree_with_the_networks(configuration: Mapping[str, Any], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, plain = build_network(configuration), by_formulas(configuration)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    plain.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, *size)
    (result, gradients), (expected, wanted) = step(ours, x), step(plain, x)
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert gradients.keys() == wanted.keys()
    largest = max(gradient.abs().max() for gradient in wanted.values())
    for name, gradient in gradients.items():  # some vanish but for rounding: biases that move all logits alike
        bound = 1e-4 * wanted[name].abs().max() + 1e-6 * largest
        assert (gradient - wanted[name]).abs().max() <= bound, name
