"""Networks of every family as ONNX files, small here; as published behind the marker ``published``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archs.contract import at_scale, contract_of
from config.variants import HEADS, VARIANTS, configuration
from models.export.files import Written, write_program
from models.export.options import ProgramOptions
from models.inference.upscale import upscale
from models.weights.layout import for_inference
from tests.archs.test_contract import SMALLER
from tests.models.export.networks import needs_torch, network_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = needs_torch

SMALL = ("RGT", "PFT")  # ESCLTE is below, HAT in test_onnx_files.py, PlainUSR in tests/test_onnx_networks.py
PUBLISHED = (*VARIANTS, "esc_real", *HEADS, "esc_lte", "real_esrgan", "msrresnet")


def exported(network_g: Mapping[str, Any], path: Path) -> tuple[torch.nn.Module, Written]:
    network = for_inference(network_of(network_g))
    return network, write_program(path, network, network_g, "", ProgramOptions())


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL)
def test_network_as_an_onnx_file(name: str, tmp_path: Path) -> None:
    """Three sizes are checked by the export itself; here are the least, batches, and sides of different kinds."""
    path = tmp_path / "net.onnx"
    network, written = exported({"type": name, **SMALLER[name]}, path)
    least, most = contract_of(network).graph_sizes
    assert (written.facts.least, written.facts.most) == (least, most)
    session = onnxruntime.InferenceSession(path)
    for batch, height, width in ((1, least, least), (3, least + 1, 37), (2, 64, least + 18)):
        images = torch.rand(batch, 3, height, width)
        [output] = session.run(None, {"input": images.numpy()})
        np.testing.assert_allclose(output, upscale(network, images).numpy(), atol=2e-5)


@pytest.mark.long
def test_network_for_any_scale_with_the_scale_as_an_input(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    network, written = exported({"type": "ESCLTE", **SMALLER["ESCLTE"]}, path)
    assert (written.facts.scale, written.facts.scale_input) == (None, "scale")
    session = onnxruntime.InferenceSession(path)
    for scale, size in itertools.product((1, 1.25, 3, 3.7, 8), ((1, 1, 1), (3, 2, 2), (1, 4, 9), (2, 17, 12))):
        images = torch.rand(size[0], 3, *size[1:])
        fed = {"input": images.numpy(), "scale": np.array(scale, np.float32)}
        [output] = session.run(None, fed)
        np.testing.assert_allclose(output, upscale(at_scale(network, scale), images).numpy(), atol=2e-5)


@pytest.mark.published
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configuration_as_an_onnx_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints a line of a table: name, largest difference, levels, MiB of the file and of the weights, seconds."""
    path = tmp_path / "net.onnx"
    network_g = configuration(name, 4)
    start = time.perf_counter()
    network, written = exported(network_g, path)
    seconds = time.perf_counter() - start
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    with capsys.disabled():
        print(  # noqa: T201
            f"\n| {name} | {written.findings.program.largest:.1e} | {written.findings.program.levels} | "
            f"{written.size / 2**20:.1f} | {weights / 2**20:.1f} | {seconds:.0f} |"
        )
    assert written.size < 1.1 * weights + 4 * 2**20
