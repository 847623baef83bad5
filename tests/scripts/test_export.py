"""Exported networks compute the same and load anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archs import build_network
from models.checkpoint import load_weights
from tests.runs import main_of
from utils.command import run_command

TRAIN = {"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 4], "scale": 2}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_train_form_is_folded(tmp_path: Path, suffix: str) -> None:
    network = build_network(TRAIN)
    torch.save({"params": network.state_dict()}, tmp_path / "net_g_latest.pth")
    target = tmp_path / f"folded{suffix}"
    line = ["-w", str(tmp_path / "net_g_latest.pth"), "-o", str(target)]
    assert run_command(main_of("scripts/export.py"), line) == 0
    folded = build_network({**TRAIN, "type": "PlainUSR_ultra_inference"})
    assert not load_weights(folded, target)
    x = torch.rand(1, 3, 9, 11)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-5)
    assert run_command(main_of("scripts/export.py"), line) == 2  # never overwritten unasked
    assert run_command(main_of("scripts/export.py"), [*line, "--overwrite"]) == 0


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"params": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    export = main_of("scripts/export.py")
    assert run_command(export, ["-w", str(tmp_path / "other.pth"), "-o", str(tmp_path / "x.pth")]) == 2
    assert "belong to no network" in capsys.readouterr().err
    assert run_command(export, ["-w", str(tmp_path / "other.pth"), "-o", str(tmp_path / "x.onnx")]) == 2
    assert "ends in .pth or .safetensors" in capsys.readouterr().err
