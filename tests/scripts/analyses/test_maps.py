"""``analyse.py maps``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from data.images.files import read_image
from tests.scripts.analyses.files import analyse, pictures, record, small_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("of maps")
    for name in ("PlainUSR_general", "ESC", "RGT"):
        small_weights(root, name)
    pictures(root / "set", 1)
    return root


def test_all_maps_that_plainusr_has(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = f"my net={folder / 'PlainUSR_general.pth'}"
    assert analyse("maps", "-w", weights, "-i", folder / "set", "-o", tmp_path / "out") == 0
    found = record(tmp_path / "out", "maps")
    of_block = found["importance"]["my net/picture 0"]["block1.body.3"]
    assert 0 < of_block["importance_min"] < of_block["importance_mean"] < of_block["importance_max"] < 1
    assert f"never above {max(one['gate_max'] for one in found['importance']['my net/picture 0'].values()):.3f}" in (
        capsys.readouterr().out
    )
    assert list(found["explained_variance"]["my net/picture 0"]) == ["block1", "block2", "blockm", "block3", "block4"]
    with np.load(tmp_path / "out" / "maps.npz") as arrays:
        assert arrays["my net/picture 0/block2.body.3/gate"].shape == (24, 26)
        assert arrays["my net/picture 0/blockm/components"].shape == (24, 26, 3)
    for name in ("importance", "features"):
        assert read_image(tmp_path / "out" / f"maps_{name}_my_net_picture_0.png").std() > 10


def test_alphas_need_no_picture(folder: Path, tmp_path: Path) -> None:
    assert analyse("maps", "-w", folder / "RGT.pth", "--map", "hai", "-o", tmp_path / "out") == 0
    found = record(tmp_path / "out", "maps")
    assert [one["attention"] for one in found["hai"]["RGT"].values()] == ["L-SA", "RG-SA", "L-SA", "L-SA", "RG-SA"]
    assert "mean alpha of 5 blocks x 96 channels: L-SA" in found["text"]
    assert read_image(tmp_path / "out" / "maps_hai.png").std() > 10


def test_kernels_of_esc_and_features_of_chosen_modules(folder: Path, tmp_path: Path) -> None:
    more = ["-i", folder / "set", "--map", "kernels", "features", "--of", "blocks.*.attn", "-o", tmp_path / "out"]
    assert analyse("maps", "-w", folder / "ESC.pth", *more) == 0
    found = record(tmp_path / "out", "maps")
    assert "of its energy in the middle 3 x 3; generated kernels have RMS" in found["text"]
    assert list(found["explained_variance"]["ESC/picture 0"]) == ["blocks.0.attn", "blocks.1.attn"]
    with np.load(tmp_path / "out" / "maps.npz") as arrays:
        assert arrays["ESC/shared_kernel"] == pytest.approx(arrays["ESC/shared_kernel"].T)
        assert arrays["ESC/picture 0/blocks.0.pconvs.0/generated"].shape[1:] == (3, 3)


def test_a_map_that_a_network_does_not_have_is_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, out = folder / "PlainUSR_general.pth", ["-o", tmp_path / "out"]
    for arguments, sentence in (
        (["-w", plain, "-i", folder / "set", "--map", "hai"], "has no hai maps; it has importance and features"),
        (["-w", plain], "features and importance are of a picture; give one with -i"),
        (["-w", folder / "RGT.pth", "--map", "hai", "--of", "layers.0"], "--of names the modules of feature maps"),
    ):  # fmt: skip
        assert analyse("maps", *arguments, *out) == 2
        assert sentence in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert analyse("maps", "-w", folder / "RGT.pth", "--map", "hai", *out) == 2
    assert "pip install -r requirements-analysis.txt" in capsys.readouterr().err
