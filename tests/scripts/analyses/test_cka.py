"""``analyse.py cka``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.images.files import read_image
from tests.scripts.analyses.files import analyse, pictures, record, small_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("of cka")
    for name in ("MSRResNet", "ESC", "PlainUSR_ultra"):
        small_weights(root, name)
    pictures(root / "set")
    return root


def test_two_networks(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = [f"a={folder / 'MSRResNet.pth'}", f"b={folder / 'PlainUSR_ultra.pth'}"]
    more = ["-i", folder / "set", "--side", 12, "--batch", 6, "-o", tmp_path / "out"]
    assert analyse("cka", "-w", *weights, *more) == 0
    text = capsys.readouterr().out
    found = record(tmp_path / "out", "cka")
    assert (found["n"], found["batches"], found["crop_side"], len(found["pictures"])) == (6, 2, 12, 3)
    assert (found["rows"]["network"], found["columns"]["network"]) == ("a", "b")
    assert found["columns"]["modules"] == ["block1", "blockm", "block2"]
    cka = np.array(found["cka"])
    assert cka.shape == (len(found["rows"]["modules"]), 3)
    assert "12 crops of 12 x 12 LR pixels from 3 pictures" in text
    high = np.unravel_index(cka.argmax(), cka.shape)
    assert f"CKA is highest of a body.{high[0]} and b {found['columns']['modules'][high[1]]} ({cka.max():.3f})" in text
    assert found["text"] in text
    with np.load(tmp_path / "out" / "cka.npz") as arrays:
        assert arrays["cka"] == pytest.approx(cka)
    assert read_image(tmp_path / "out" / "cka.png").std() > 10
    assert analyse("cka", "-w", *weights, *more) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_one_network_and_the_same_one_as_another_checkpoint(folder: Path, tmp_path: Path) -> None:
    weights, more = folder / "MSRResNet.pth", ["-i", folder / "set", "--side", 12, "--of", "body.*", "conv_hr"]
    assert analyse("cka", "-w", weights, *more, "-o", tmp_path / "one") == 0
    own = record(tmp_path / "one", "cka")
    assert own["rows"]["modules"][-1] == "conv_hr"
    assert np.diagonal(own["cka"]) == pytest.approx(1)
    assert analyse("cka", "-w", f"early={weights}", f"late={weights}", *more, "-o", tmp_path / "two") == 0
    assert "equal layers: mean CKA 1.000" in record(tmp_path / "two", "cka")["text"]


def test_pixels_as_samples(folder: Path, tmp_path: Path) -> None:
    more = ["-i", folder / "set", "--side", 12, "--count", 2, "--samples", "pixels", "-o", tmp_path / "out"]
    assert analyse("cka", "-w", folder / "ESC.pth", *more) == 0
    found = record(tmp_path / "out", "cka")
    assert found["rows"]["modules"][:2] == ["blocks.0.attn", "blocks.0.pconvs.0"]
    assert (found["n"], found["batches"]) == (144, 2)
    assert np.array(found["cosine"]).shape == np.array(found["cka"]).shape
    assert "cosine is highest of blocks." in found["text"]
    assert (tmp_path / "out" / "cka_cosine.png").exists()


def test_bad_input_gets_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out = folder / "MSRResNet.pth", ["-o", tmp_path / "out"]
    for arguments, sentence in (
        (["-w", weights, weights, weights, "-i", folder / "set"], "cka compares one network with itself, or two; 3"),
        (["-w", weights, "-i", folder / "set", "--side", 20], "give 3 crops of 20 x 20 low-resolution pixels"),
        (["-w", weights, "-i", folder / "set", "--batch", 3], "--batch 3: CKA needs at least 4"),
        (["-w", weights, "-i", folder / "set", "--of", "bodi.0"], 'no module bodi.0 (did you mean "body.0"?)'),
        (["-w", weights, "-i", folder / "set", "--side", 40], "no picture has 40 x 40 low-resolution pixels"),
        (["-w", weights, "-i", folder / "set", "--tile", 64], "--tile has no meaning here"),
    ):  # fmt: skip
        assert analyse("cka", *arguments, *out) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
