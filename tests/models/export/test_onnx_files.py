"""ONNX files compute what the network computes, say what they are, and hold nothing of this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.export.facts import ExportFacts
from models.export.files import Written, write_program
from models.export.fingerprint import fingerprint
from models.export.options import ProgramOptions
from models.inference.upscale import upscale
from tests.models.export.networks import HAT, needs_torch, network_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = needs_torch


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return network_of(HAT)


@pytest.fixture(scope="module")
def written(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written]:
    """A HAT as an ONNX file."""
    path = tmp_path_factory.mktemp("an export") / "net.onnx"
    return path, write_program(path, network, HAT, fingerprint(network.state_dict()), ProgramOptions())


@pytest.mark.parametrize("shape", [(1, 3, 1, 2), (2, 3, 5, 17), (3, 3, 24, 12)])
def test_any_number_of_images_of_any_size(
    written: tuple[Path, Written], network: torch.nn.Module, shape: tuple[int, ...]
) -> None:
    session = onnxruntime.InferenceSession(written[0])
    images = torch.rand(shape)
    [output] = session.run(["output"], {"input": images.numpy()})
    np.testing.assert_allclose(output, upscale(network, images).numpy(), atol=1e-5)


def test_the_file_says_what_it_takes_and_where_it_comes_from(
    written: tuple[Path, Written], network: torch.nn.Module
) -> None:
    path, result = written
    model = onnx.load(path)
    facts = ExportFacts.from_strings({entry.key: entry.value for entry in model.metadata_props}, path.name)
    assert facts == result.facts
    assert facts.network_g == HAT
    assert facts.weights_sha256 == fingerprint(network.state_dict())
    assert (facts.scale, facts.window_size, facts.multiple, facts.least, facts.most) == (2, 4, 4, 1, None)
    assert facts.difference is not None
    assert facts.difference < 1e-4
    assert facts.checked_by is not None
    assert facts.checked_by.startswith("ONNX Runtime ")
    sizes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert sizes == {"input": ["batch", 3, "height", "width"], "output": ["batch", 3, "2*height", "2*width"]}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]


def test_the_file_holds_nothing_of_this_machine_and_of_the_exporter(written: tuple[Path, Written]) -> None:
    content = written[0].read_bytes()
    for text in (str(Path(torch.__file__).parent), str(Path(__file__).parents[3]), "stack_trace", "pkg.torch", ".py"):
        assert text.encode() not in content
    onnx.checker.check_model(onnx.load(written[0]), full_check=True)
    assert [path.name for path in written[0].parent.iterdir()] == ["net.onnx"]


def test_no_constant_is_larger_than_a_window_needs(written: tuple[Path, Written], network: torch.nn.Module) -> None:
    """Masks and index tables are computed in the graph; what is folded comes of the weights."""
    model = onnx.load(written[0])
    weights = {f"network.{name}" for name in network.state_dict()}
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    assert weights & set(sizes)
    assert not {name: size for name, size in sizes.items() if name not in weights and size > 2 * 16 * 36}
