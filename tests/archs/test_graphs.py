"""Every network as a graph for images of any size, as torch.export records it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.export import Dim, ExportedProgram

from archs import NETWORKS, build_network
from archs.contract import contract_of
from models.export.conditions import hold_for
from models.export.form import ExportForm
from models.export.program import check_torch
from models.inference.upscale import upscale
from ops.dialect import ONNX_18, TORCH, Dialect, recorded_for
from tests.archs.test_contract import SMALL, Network
from utils.errors import InputError

try:
    check_torch()
except InputError as too_old:
    pytest.skip(str(too_old), allow_module_level=True)

# As small as the published networks' kinds of layers allow: recording them is what takes time.
SMALLER: Mapping[str, Mapping[str, Any]] = {
    **SMALL,
    "HAT": {**SMALL["HAT"], "depths": [2], "num_heads": [2]},
    "RGT": {**SMALL["RGT"], "depth": [3], "num_heads": [4]},
    "PFT": {**SMALL["PFT"], "depths": [5]},
    "RRDBNet": {**SMALL["RRDBNet"], "num_block": 1},
}


def built(name: str) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network({"type": name, **SMALLER[name]}).eval().requires_grad_(False)
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():  # it would hide the layers before it
                torch.nn.init.normal_(parameter, std=0.05)
    return network


def recorded(network: Network, *, free: bool = True, dialect: Dialect = TORCH) -> ExportedProgram:
    shapes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if free else {}
    example = torch.rand(2, 3, 41, 50, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), recorded_for(dialect):
        program = torch.export.export(ExportForm(network).eval(), (example,), dynamic_shapes=(shapes,))
    assert not any("focalsr" in str(node.target) for node in program.graph.nodes)
    return program


@pytest.mark.parametrize("name", NETWORKS)
def test_one_graph_holds_for_all_sizes_and_batches(name: str) -> None:
    network = built(name)
    least, most = contract_of(network).graph_sizes
    program = recorded(network, dialect=ONNX_18)
    hold_for(program, least, most)
    run = program.module()
    for batch, height, width in ((1, least, least), (3, least + 1, least), (2, 27, 40), (1, 64, 19), (3, 32, 16)):
        x = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            torch.testing.assert_close(run(x), upscale(network, x), rtol=0, atol=1e-5)
