"""Small networks of the ESC family."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from archs import build_network
from models.export.form import export_form
from models.export.program import check_torch, quiet
from utils.errors import InputError

SIZES: dict[str, Any] = {
    "dim": 16, "pdim": 4, "kernel_size": 5, "n_blocks": 2, "conv_blocks": 2, "window_size": 4, "num_heads": 2,
    "exp_ratio": 1.25,
}  # fmt: skip
SMALL: dict[str, Any] = {"type": "ESC", **SIZES, "upscaling_factor": 2}
DECODER: dict[str, Any] = {"hidden_dim": 12, "hidden_list": [10, 8]}
LTE: dict[str, Any] = {"type": "ESCLTE", **SIZES, **DECODER}
REAL_M: dict[str, Any] = {"type": "ESCRealM", **SIZES, "mid_dim": 8}


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


def free_program(network: Any, scale: float | Literal["input"] | None = None) -> ExportedProgram:
    """The network's form for export as a program whose batch, height and width are free; scale as there.

    It has no conditions: none that torch.export checks before it runs, and none on the sizes.
    """
    try:
        check_torch()
    except InputError as too_old:
        pytest.skip(str(too_old))
    free: Any = {"image": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    inputs = [pixels(2, 3, 11, 9)]
    if scale == "input":
        free["scale"] = None
        inputs.append(torch.tensor(2.6))
    with quiet(), torch.no_grad():
        program = torch.export.export(export_form(network, scale).eval(), tuple(inputs), dynamic_shapes=free)
    assert not any("focalsr" in str(node.target) for node in program.graph.nodes)
    assert not program._guards_code
    assert all(found.lower <= 2 and found.upper > 1 << 40 for found in program.range_constraints.values())
    return program
