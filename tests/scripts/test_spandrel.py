"""Exported networks open in spandrel, which chaiNNer reads models with; skipped where it is not installed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from archs import build_network
from models.weights.files import write_checkpoint
from tests.runs import main_of
from utils.command import run_command

NETWORKS: dict[str, dict[str, Any]] = {
    "HAT": {
        "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, "compress_ratio": 3,
        "squeeze_factor": 3,
    },
    "SwinIR": {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, "img_size": 16},
    "RGT": {"embed_dim": 32, "depth": [2, 2], "num_heads": [4, 4], "split_size": [4, 8], "img_size": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def spandrel() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        return pytest.importorskip("spandrel")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_spandrel_reads_our_exports_and_upscales_the_same(
    spandrel: Any, tmp_path: Path, name: str, suffix: str
) -> None:
    torch.manual_seed(0)
    described = {"type": name, "upscale": 2, **NETWORKS[name]}
    network, other = build_network(described).eval(), build_network(described)
    saved, exported = tmp_path / "net_g_latest.pth", tmp_path / f"exported{suffix}"
    metadata = {"options": {"network_g": described}}
    write_checkpoint(saved, {"params": other.state_dict(), "params_ema": network.state_dict(), "focalsr": metadata})
    line = ["-w", str(saved), "-o", str(exported), "--published"]
    assert run_command(main_of("scripts/export.py"), line) == 0
    opened = spandrel.ModelLoader(device="cpu").load_from_file(exported)
    assert (opened.architecture.name, opened.scale) == (name, 2)
    x = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(opened.model.eval()(x), network(x), rtol=1e-4, atol=1e-5)
