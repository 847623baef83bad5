"""Small networks, and weight files of them, for the tests of exports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from archs import build_network
from models.export.program import LEAST_TORCH

RELEASE = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
needs_torch = pytest.mark.skipif(RELEASE < LEAST_TORCH, reason=f"programs are exported with torch {LEAST_TORCH}")

TINY: Mapping[str, Any] = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}
"""The network that is exported in the least time."""

PLAINUSR: Mapping[str, Any] = {"type": "PlainUSR_ultra_inference", "n_feat": 8, "im_feat": [8, 4], "scale": 2}
"""One that pools images of a window's size to one pixel."""

HAT: Mapping[str, Any] = {
    "type": "HAT", "upscale": 2, "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 4,
    "compress_ratio": 3, "squeeze_factor": 3,
}  # fmt: skip


def network_of(network_g: Mapping[str, Any]) -> nn.Module:
    """A network without parameters that are 0: what is 0 is left out of graphs."""
    torch.manual_seed(0)
    network = build_network(network_g).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return network


def weights_of(network_g: Mapping[str, Any], path: Path) -> Path:
    """A checkpoint of a network."""
    network = network_of(network_g)
    torch.save({"params_ema": network.state_dict(), "focalsr": {"options": {"network_g": dict(network_g)}}}, path)
    return path
