"""Small networks of the ESC family."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archs import build_network

SIZES: dict[str, Any] = {
    "dim": 16, "pdim": 4, "kernel_size": 5, "n_blocks": 2, "conv_blocks": 2, "window_size": 4, "num_heads": 2,
    "exp_ratio": 1.25,
}  # fmt: skip
SMALL: dict[str, Any] = {"type": "ESC", **SIZES, "upscaling_factor": 2}
DECODER: dict[str, Any] = {"hidden_dim": 12, "hidden_list": [10, 8]}
LTE: dict[str, Any] = {"type": "ESCLTE", **SIZES, **DECODER}


def built(configuration: dict[str, Any] = SMALL, **changes: Any) -> Any:
    """A network with the same weights in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network({**configuration, **changes})


def pixels(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random values in [0, 1), the same in every call."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def randomised(network: Any) -> Any:
    """Without the zeros that some layers start with."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network
