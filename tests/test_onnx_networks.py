"""Published weights, exported and run by ONNX Runtime and OpenVINO: the PSNR is that of PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from config import read
from data.images.files import read_image
from models.evaluation.evaluate import evaluate
from models.evaluation.sets import evaluation_sets
from models.runtimes.build import open_network
from models.weights.recognise import network_from_weights
from tests.runs import ROOT, main_of
from utils.command import run_command

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(
    scope="module",
    params=[
        "PlainUSRU",
        *(pytest.param(f"PlainUSR{size}", marks=pytest.mark.published) for size in ("T", "S", "M", "", "L")),
    ],
)
def files(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Published weights, and what is exported of them."""
    weights = shared / f"weights/{request.param}_Rep_x4.pth"
    target = tmp_path_factory.mktemp("exported nets") / "net.onnx"
    assert run_command(main_of("scripts/export.py"), ["-w", str(weights), "-o", str(target)]) == 0
    return weights, target


@pytest.mark.shared
@pytest.mark.slow
def test_scores_and_pictures_are_those_of_pytorch(files: tuple[Path, Path], shared: Path, tmp_path: Path) -> None:
    weights, exported = files
    edits = [f"datasets:test_1:dataroot_{side}={shared}/data/Set5/x4/{folder}" for side, folder in
             (("gt", "HR"), ("lq", "LR"))]  # fmt: skip
    options = read(ROOT / "options/test_plainusr_x4.yml", [*edits, "datasets:test_2=null"], mode="test")
    assert options.val is not None
    [dataset] = evaluation_sets(options.datasets.values(), options.val, scale=4, seed=0, phase="test")
    networks = [network_from_weights(weights), open_network(exported, "cpu"), open_network(exported, "openvino")]
    expected, *found = (evaluate(network, dataset, options.val, device=torch.device("cpu")) for network in networks)
    for report in found:
        assert report.scores == pytest.approx(expected.scores, abs=1e-3)
        for row, wanted in zip(report.rows, expected.rows, strict=True):
            assert row.scores == pytest.approx(wanted.scores, abs=1e-3)
    for name, source in ("torch", weights), ("onnx", exported):
        arguments = ["-i", f"{shared}/data/Set5/x4/LR", "-o", str(tmp_path / name), "-w", str(source), "--tile", "48"]
        assert run_command(main_of("scripts/upscale.py"), arguments) == 0
    for path in (tmp_path / "torch").iterdir():
        ours, theirs = (read_image(tmp_path / folder / path.name).astype(int) for folder in ("torch", "onnx"))
        assert np.abs(ours - theirs).max() <= 1
