"""Exported networks compute the same and load anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archs import build_network
from models.weights.files import load_weights
from models.weights.recognise import configuration
from tests.runs import main_of
from utils.command import run_command

TRAIN = {"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 4], "scale": 2}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_network_in_train_form_is_exported_folded(tmp_path: Path, suffix: str) -> None:
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


def test_published_flag_adds_the_constants_of_published_files(tmp_path: Path) -> None:
    hat = {"type": "HAT", "upscale": 2, "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 4}
    network = build_network({**hat, "compress_ratio": 3, "squeeze_factor": 3})
    torch.save({"params_ema": network.state_dict()}, tmp_path / "net_g_latest.pth")
    keys = []
    for flags in ([], ["--published"]):
        line = ["-w", str(tmp_path / "net_g_latest.pth"), "-o", str(tmp_path / "out.pth"), "--overwrite", *flags]
        assert run_command(main_of("scripts/export.py"), line) == 0
        keys.append(set(torch.load(tmp_path / "out.pth", weights_only=True)))
    assert keys[0] == set(network.state_dict())
    assert keys[1] - keys[0] == {"relative_position_index_SA", "relative_position_index_OCA"}
    assert not load_weights(network, tmp_path / "out.pth")


def test_metadata_of_the_checkpoint_describes_the_exported_network(tmp_path: Path) -> None:
    """The size of RGT's windows cannot be read off its weights, and decides about the constants."""
    described = {"type": "RGT", "upscale": 2, "embed_dim": 32, "depth": [2], "num_heads": [4], "split_size": [4, 8]}
    metadata = {"options": {"network_g": described}}
    source, target = tmp_path / "net_g_latest.pth", tmp_path / "out.safetensors"
    torch.save({"params_ema": build_network(described).state_dict(), "focalsr": metadata}, source)
    assert run_command(main_of("scripts/export.py"), ["-w", str(source), "-o", str(target), "--published"]) == 0
    assert configuration(target) == described
    assert not load_weights(build_network(described), target)


def test_unknown_weights_and_unknown_suffixes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"params": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    export = main_of("scripts/export.py")
    assert run_command(export, ["-w", str(tmp_path / "other.pth"), "-o", str(tmp_path / "x.pth")]) == 2
    assert "give an option file with -opt" in capsys.readouterr().err
    assert run_command(export, ["-w", str(tmp_path / "other.pth"), "-o", str(tmp_path / "x.onnx")]) == 2
    assert "ends in .pth or .safetensors" in capsys.readouterr().err
