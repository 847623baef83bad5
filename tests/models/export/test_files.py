"""Programs of each kind: fixed sizes, opset 23, half precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from archs.layers.size import SizeRule
from models.export.files import write_program
from models.export.options import ProgramOptions
from models.inference.upscale import upscale
from models.precision.network import in_precision
from tests.models.export.networks import HAT, TINY, needs_torch, network_of
from utils.errors import InputError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = needs_torch


def run(path: Path, images: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    [output] = onnxruntime.InferenceSession(path).run(None, {"input": images.numpy()})
    return output  # type: ignore[no-any-return]


def test_fixed_size_and_opset_23(tmp_path: Path) -> None:
    network, path = network_of(HAT), tmp_path / "net.onnx"
    written = write_program(path, network, HAT, "", ProgramOptions(opset=23, static=(10, 14), batch=2))
    assert (written.facts.static, written.facts.tolerance) == ((10, 14), 1e-4)
    model = onnx.load(path)
    assert [opset.version for opset in model.opset_import] == [23]
    assert "Attention" in {node.op_type for node in model.graph.node}
    sizes = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == [2, 3, 10, 14]
    images = torch.rand(2, 3, 10, 14)
    np.testing.assert_allclose(run(path, images), upscale(network, images).numpy(), atol=1e-5)
    with pytest.raises(Exception, match="invalid dimensions"):
        run(path, torch.rand(1, 3, 10, 14))


def test_fixed_size_below_what_the_network_takes(tmp_path: Path) -> None:
    network = network_of(TINY)
    network.size_rule = SizeRule(minimum=4)  # type: ignore[assignment]
    with pytest.raises(InputError, match="--static 2x40: MSRResNet takes images from 4x4"):
        write_program(tmp_path / "net.onnx", network, TINY, "", ProgramOptions(static=(2, 40)))


def test_float16(tmp_path: Path) -> None:
    """Weights in half precision but for the modules that are named; images in and out in float32."""
    network, path = network_of(TINY), tmp_path / "net.onnx"
    options = ProgramOptions(precision="fp16")
    written = write_program(path, network, TINY, "", options, keep=["conv_last"])
    assert written.facts.float32 == ("conv_last",)
    assert written.facts.loss is not None
    assert 0 < written.facts.loss < 1e-2
    types = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    found = {types[name] for name in types if name.endswith("conv_hr.weight")}
    kept = {types[name] for name in types if name.endswith("conv_last.weight")}
    assert (found, kept) == ({onnx.TensorProto.FLOAT16}, {onnx.TensorProto.FLOAT})
    images = torch.rand(1, 3, 9, 8)
    expected = upscale(in_precision(network, "fp16", ["conv_last"]), images).numpy()
    output = run(path, images)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, expected, atol=5e-3)


def test_bfloat16_is_checked_by_what_can_run_it(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "net.onnx"
    written = write_program(path, network_of(TINY), TINY, "", ProgramOptions(precision="bf16"))
    assert written.facts.checked_by is not None
    assert written.facts.checked_by.startswith("OpenVINO ")
    assert "bf16" in str(written)
    model = onnx.load(path)
    assert [opset.version for opset in model.opset_import] == [23]
    assert onnx.TensorProto.BFLOAT16 in {tensor.data_type for tensor in model.graph.initializer}
