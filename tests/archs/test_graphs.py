"""Every network as a graph for images of any size, as torch.export records it."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from archs import NETWORKS
from archs.contract import contract_of
from models.export.conditions import hold_for
from models.export.form import ExportForm
from models.export.program import check_torch, quiet
from models.inference.upscale import upscale
from ops.dialect import ONNX_18, TORCH, Dialect, recorded_for
from tests.archs.test_contract import SMALLER, Network, built
from utils.errors import InputError

try:
    check_torch()
except InputError as too_old:
    pytest.skip(str(too_old), allow_module_level=True)

FLOAT = 1
"""The number of float32 in ONNX files; what else there is has eight bytes at most."""

AS_FILES = ("HAT", "RGT", "PFT", "ESCLTE", "ESC")
"""Networks whose graphs tests/models/export records too, writes as ONNX files and runs; ESC's blocks are in ESCLTE."""

RECORDED = [
    name
    for name in NETWORKS
    if f"{name}_inference" not in NETWORKS  # which is what is exported in its place
    and (name not in AS_FILES or not all(map(find_spec, ("onnx", "onnxruntime", "onnxscript"))))
    and name not in ("ESCRealM", "HiT_SIR")  # which test_esc.py records, whose parts are those of HiT_SNG
]


def recorded(
    network: Network,
    *,
    size: tuple[int, int, int, int] = (2, 3, 41, 50),
    free: bool = True,
    dialect: Dialect = TORCH,
) -> ExportedProgram:
    shapes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if free else {}
    example = torch.rand(*size, generator=torch.Generator().manual_seed(2))
    with quiet(), torch.no_grad(), recorded_for(dialect):
        program = torch.export.export(ExportForm(network).eval(), (example,), dynamic_shapes=(shapes,))
    assert not any("focalsr" in str(node.target) for node in program.graph.nodes)
    return program


KNOWN_PARTS = ("SwinIR", "HiT_SRF", "HiT_SNG")
"""Networks of layers whose graphs are recorded for others too."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in KNOWN_PARTS else []) for name in RECORDED]
)
def test_one_graph_holds_for_all_sizes_and_batches(name: str) -> None:
    network = built(name, SMALLER[name]).eval().requires_grad_(False)
    least, most = contract_of(network).graph_sizes
    program = recorded(network, dialect=ONNX_18)
    hold_for(program, least, most)
    run = program.module()
    for batch, height, width in ((1, least, least), (3, least + 1, least), (2, 27, 40), (1, 64, 19), (3, 32, 16)):
        x = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            torch.testing.assert_close(run(x), upscale(network, x), rtol=0, atol=1e-5)


def test_a_rule_about_sizes_limits_the_graph() -> None:
    network = built("RGT", SMALLER["RGT"]).eval()
    assert network.graph_sizes == (16, 1023)
    for side in (16, 1023):
        assert network.recursions_for(side, 16) == network.recursions_for(1023, side) == 2
    assert network.recursions_for(15, 16) != 2
    assert network.recursions_for(1024, 64) != 2
    network.recursions = 1
    assert network.graph_sizes == (4, None)


def test_a_graph_of_certain_sizes_alone_is_refused() -> None:
    class Specialised(nn.Module):
        scale = 1

        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.shape[2] > 100 else x

    program = recorded(Specialised())
    with pytest.raises(ValueError, match=r"not for images of any size: .* 100"):
        hold_for(program, 1, None)


def test_masks_are_computed_in_the_graph() -> None:
    pytest.importorskip("onnxscript")
    small = {"depths": [2], "num_heads": [1], "embed_dim": 4, "window_size": 8}
    network = built("HAT", {**SMALLER["HAT"], **small}).eval().requires_grad_(False)
    program = recorded(network, size=(1, 3, 100, 97), free=False, dialect=ONNX_18)
    with quiet():
        exported = torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)
    assert exported is not None
    stored = sum(
        math.prod(tensor.dims) * (4 if tensor.data_type == FLOAT else 8)
        for tensor in exported.model_proto.graph.initializer
    )
    weights = sum(value.nbytes for value in network.state_dict().values())
    # Of 104 x 104 pixels masks take 2.8 MB; regions take 43 kB, and so do positions and biases of a window.
    assert stored < weights + 300_000
