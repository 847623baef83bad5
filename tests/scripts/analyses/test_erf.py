"""``analyse.py erf``: files, text and messages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data.images.files import read_image
from scripts import analyse
from tests.models.export.networks import HAT, TINY, weights_of
from tests.scripts.upscale.runs import picture
from utils.errors import InputError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two pictures and the weights of two networks."""
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "pictures/a.png", 15, 19)
    picture(tmp_path / "pictures/b.png", 17, 13, seed=1)
    weights_of(TINY, tmp_path / "tiny.pth")
    weights_of(HAT, tmp_path / "hat.pth")
    return tmp_path


def erf(*arguments: str) -> None:
    analyse.main(["erf", "-i", "pictures", "-o", "out", "--device", "cpu", *arguments])


def test_networks_and_modules_are_looked_at_in_one_call(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    erf("-w", "hat.pth", "ours=tiny.pth", "--feature", "layers.0", "output")
    said = capsys.readouterr().out
    record = json.loads(Path("out/erf.json").read_text())
    assert record["size"] == 13  # the largest square that all images hold
    assert [(item["network"], item["target"], item["images"]) for item in record["fields"]] == [
        ("hat", "layers.0", 2), ("hat", "output", 2), ("ours", "output", 2)
    ]  # fmt: skip
    r = {(item["network"], item["target"]): item["r_without_log"] for item in record["fields"]}
    assert r["hat", "layers.0"]["0.99"]["r"] > r["ours", "output"]["0.99"]["r"]
    assert "2 images of 13 x 13" in said
    assert "log10(E + 1), as published" in said
    with np.load("out/erf.npz") as arrays:
        assert set(arrays) == {"hat/layers.0", "hat/output", "ours/output"}
        assert arrays["ours/output"].shape == (13, 13)
        assert not arrays["ours/output"][0].any()
    assert read_image(Path("out/erf.png")).shape[1] > 2 * 290  # a row for each network


def test_networks_are_ordered(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    erf("-w", "hat.pth", "ours=tiny.pth", "--size", "9")
    said = capsys.readouterr().out
    assert "9 x 9" in said
    assert "From the widest to the narrowest (r at 50 %, without logarithm): " in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--feature", "layers.0.residual_groop"], r"has no module layers\.0\.residual_groop \(did you mean"),
        (["--size", "14"], "the smallest LR image holds a square of 13 x 13 pixels only"),
        (["--size", "3"], "--size must be at least 5"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["-w", "hat.pth", "tiny.pth", "--feature", "layers.0"], r"tiny has none of these modules: layers\.0"),
    ],
)
def test_bad_input_is_one_sentence(place: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        erf("-w", "hat.pth", *arguments)
    assert not Path("out").exists()
