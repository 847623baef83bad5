"""``analyse.py frequency``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.images.files import read_image
from tests.scripts.analyses.files import analyse, pictures, record, small_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("of frequency")
    for name in ("MSRResNet", "PlainUSR_general_inference"):
        small_weights(root, name)
    pictures(root / "set", height=50, width=52)
    return root


def test_features_and_errors_of_two_networks(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = [f"a={folder / 'MSRResNet.pth'}", f"b={folder / 'PlainUSR_general_inference.pth'}"]
    more = ["-i", folder / "set", "--side", 12, "--batch", 2, "--of", "blocks", "tai*", "-o", tmp_path / "out"]
    assert analyse("frequency", "-w", *weights, *more) == 0
    found = record(tmp_path / "out", "frequency")
    assert found["crops"] == 3
    assert list(found["features"]["b"]) == ["block1", "block2", "blockm", "block3", "block4", "tail"]
    assert all(curve[0] == 0 for curve in found["features"]["b"].values())
    assert set(found["error"]) == {"a", "b", "bicubic"}
    assert {len(curve) for curve in found["error"].values()} == {18}  # half of the side of HR crops
    assert "a: mean log-amplitude of SR - HR" in capsys.readouterr().out
    with np.load(tmp_path / "out" / "frequency.npz") as arrays:
        assert arrays["b/features/block1"].shape == (2, 6)
        assert arrays["b/features/tail"].shape == (2, 18)  # maps of different sizes beside one another
        assert arrays["a/error"][1] == pytest.approx(found["error"]["a"])
    for name in ("frequency.png", "frequency_error.png"):
        assert read_image(tmp_path / "out" / name).std() > 10


def test_without_hr_there_is_no_error(folder: Path, tmp_path: Path) -> None:
    more = ["-i", folder / "set", "--input_is", "lr", "--side", 16, "--of", "conv_first", "-o", tmp_path / "out"]
    assert analyse("frequency", "-w", folder / "MSRResNet.pth", *more) == 0
    found = record(tmp_path / "out", "frequency")
    assert not found["error"]
    assert list(found["features"]["MSRResNet"]) == ["conv_first"]
    assert not (tmp_path / "out" / "frequency_error.png").exists()


def test_bad_input_gets_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["-w", folder / "MSRResNet.pth", "-i", folder / "set", "-o", tmp_path / "out"]
    for arguments, sentence in (
        (["--batch", 0], "--batch 0: expected 1 or more"),
        (["--side", 2], "frequencies need maps of at least 4 x 4 pixels"),
        (["--of", "body.*", "tail"], 'MSRResNet has no module tail'),
        (["--count", 0], "side and number must be at least 1"),
    ):  # fmt: skip
        assert analyse("frequency", *common, *arguments) == 2
        assert sentence in capsys.readouterr().err
