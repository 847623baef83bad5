"""``scripts/analyse.py attention``: tables, pictures, numbers, and sentences where something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data.images.files import read_image, write_image
from scripts.analyse import main
from tests.analysis.test_attention import SMALL
from tests.models.export.networks import PLAINUSR, weights_of
from utils.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and two pictures of 20 x 13 pixels."""
    folder = tmp_path_factory.mktemp("of attention")
    for kind in ("PFT", "RGT"):
        weights_of(SMALL[kind], folder / f"{kind}.pth")
    weights_of(PLAINUSR, folder / "plain.pth")
    (folder / "lr").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_image(folder / "lr" / f"{name}.png", rng.integers(0, 256, (20, 13, 3), np.uint8))
    return folder


def test_rows_of_a_pixel_are_drawn_chain_by_chain(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "where it looks"
    weights, image = str(folder / "PFT.pth"), str(folder / "lr" / "a.png")
    main(["attention", "-w", f"net={weights}", "-i", image, "--pixel", "9,12", "--heads", "mean", "1",
          "--compare", "--over", "lr", "-o", str(out)])  # fmt: skip
    text = capsys.readouterr().out
    assert "net over a, 13 x 20 low-resolution pixels:" in text
    assert " 2  layers.1.residual_group.layers.0      1      2    16" in text
    assert "would be attention to all keys alike" in text
    assert "(2 pairs)" in text
    figures = json.loads((out / "attention.json").read_text())["results"][0]["pictures"][0]
    assert [layer["chain"] for layer in figures["layers"]] == [1, 2, 1, 2]
    # Columns 13 to 15 are mirror images of 12, 11, 10.
    assert [row["box"] for row in figures["rows"]] == [[8, 10, 12, 13], [6, 10, 10, 13]] * 2
    with np.load(out / "attention.npz") as arrays:
        kept = arrays["network0_picture0_layer2_pixel9_12"]
    assert kept.shape == (2, 4, 3)
    assert 0.2 < kept.sum((1, 2)).min() <= kept.sum((1, 2)).max() < 1
    for name in ("9_12", "9_12_head1", "similarity", "distance"):
        assert read_image(out / f"attention_{name}.png").std() > 1
    # The other chain alone: no picture of the first.
    main(["attention", "-w", weights, "-i", image, "--pixel", "9,12", "--chain", "2", "-o", str(out), "--overwrite"])
    assert " 2  layers.1" not in capsys.readouterr().out


def test_folders_have_means_and_deviations_and_representatives_a_picture(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["attention", "-w", str(folder / "RGT.pth"), "-i", str(folder / "lr"), "-o", str(tmp_path)])
    text = capsys.readouterr().out
    assert "RGT over 2 pictures:" in text
    assert text.count(" +- ") == 3
    assert "to the middle of the squares that represent the image" in text
    assert "lie on keys outside the image" in text  # its windows are filled with zeros
    assert (tmp_path / "attention_picture1_representatives.png").exists()
    with np.load(tmp_path / "attention.npz") as arrays:
        assert arrays["network0_picture1_layer1_entropy"].shape == (2, 20, 13)


@pytest.mark.parametrize(
    ("network", "flags", "sentence"),
    [
        ("plain", [], r"no attention between pixels .*`analyse.py maps`"),
        ("PFT", ["--pixel", "3,13"], r"PFT, a: pixel 3,13 \(row, column\) is not in the image, which has 20 rows"),
        ("PFT", ["--layers", "7"], "PFT has no attention layer 7; expected numbers from 0 to 3"),
        ("PFT", ["--layers", "0", "--chain", "2"], "none of --layers 0 is in --chain 2"),
        ("PFT", ["--heads", "2"], "there is no head 2; layers have 2 at most, from 0"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(folder: Path, tmp_path: Path, network: str, flags: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        main(["attention", "-w", str(folder / f"{network}.pth"), "-i", str(folder / "lr" / "a.png"), "-o",
              str(tmp_path), *flags])  # fmt: skip
    assert list(tmp_path.iterdir()) == []
