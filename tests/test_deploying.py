"""docs/deploying.md: the program on the page runs an exported file as upscale.py runs the network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import archs
from data.images.files import read_image
from models.export.files import write_program
from models.export.options import ProgramOptions
from tests.pages import ROOT
from tests.runs import environment, run_here
from tests.scripts.upscale.runs import NETWORK, picture

PAGE = ROOT / "docs/deploying.md"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the name on the page, and beside it the weights that it was made from."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("an exported network")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = archs.build_network(NETWORK)
    torch.save({"params": network.state_dict()}, folder / "net.pth")
    write_program(folder / "PlainUSR_x4.onnx", network, NETWORK, "", ProgramOptions())
    return folder / "PlainUSR_x4.onnx"


def test_the_program_on_the_page_makes_the_picture_that_upscale_makes(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [program] = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len([line for line in program.splitlines() if line]) <= 10
    folder = exported.parent
    monkeypatch.chdir(folder)
    picture(folder / "photo.png", 21, 34)
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-I", "program.py"], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )  # isolated: nothing of ours can be imported
    assert done.returncode == 0, done.stderr
    assert run_here("scripts/upscale.py", "-i", "photo.png", "-o", "ours.png", "-w", "net.pth", "--cpu") == 0
    theirs, ours = (read_image(folder / name) for name in ("photo_x4.png", "ours.png"))
    assert theirs.shape == (42, 68, 3)
    assert np.abs(theirs.astype(int) - ours.astype(int)).max() <= 1


def test_the_file_is_what_the_page_says(exported: Path) -> None:
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    [image], [output] = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("input", "tensor(float)", ["batch", 3, "height", "width"])
    assert (output.name, output.type, output.shape[1]) == ("output", "tensor(float)", 3)
    said = session.get_modelmeta().custom_metadata_map
    assert said["focalsr.scale"] == "2"
    assert {"focalsr.network_g", "focalsr.least", "focalsr.receptive_radius"} <= said.keys()
    # As programs do that look for the scale, or cut tiles, without running it.
    model = onnx.load(exported)
    for name, size in (("input", (1, 3, 16, 24)), ("output", (1, 3, 0, 0))):
        [value] = [value for value in [*model.graph.input, *model.graph.output] if value.name == name]
        for dim, length in zip(value.type.tensor_type.shape.dim, size, strict=True):
            dim.Clear()
            if length:
                dim.dim_value = length
    found = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in found] == [1, 3, 32, 48]
