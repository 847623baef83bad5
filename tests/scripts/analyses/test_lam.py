"""``analyse.py lam``: files, text and messages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.images.files import read_image, write_image
from scripts import analyse
from tests.models.export.networks import HAT, TINY, network_of, weights_of
from tests.scripts.upscale.runs import picture
from utils.errors import InputError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two pictures and the weights of two networks for x2."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("cat", "dog")):
        picture(tmp_path / f"pictures/{name}.png", 27, 24, seed=number)
    weights_of(TINY, tmp_path / "tiny.pth")
    weights_of(HAT, tmp_path / "hat.pth")
    return tmp_path


def lam(*arguments: str) -> None:
    analyse.main(["lam", "-i", "pictures", "-o", "out", "--device", "cpu", "--steps", "4", *arguments])


def test_networks_and_images_are_attributed_in_one_call(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lam("-w", "hat.pth", "ours=tiny.pth", "--size", "8", "--window", "dog=20,3,8", "dog=2,2,4")
    written = capsys.readouterr()
    said = written.out.splitlines()
    record = json.loads(Path("out/lam.json").read_text())
    names = ["cat", "dog_20_3_8", "dog_2_2_4"]
    assert [item["name"] for item in record["windows"]] == names
    assert record["windows"][0]["window"]["size"] == 8
    assert record["windows"][1]["columns"] == 3
    dog = record["windows"][1]["networks"]
    assert set(dog) == {"hat", "ours"}
    assert dog["ours"]["undefined"] == 0
    assert 5 < dog["ours"]["psnr_y"] < 40
    for name in ("hat", "ours"):
        every = [item["networks"][name]["di"] for item in record["windows"]]
        assert record["mean_di"][name] == pytest.approx(sum(every) / 3)
    assert record["order"] == ["hat", "ours"]  # attention looks further than three convolutions
    assert said[0].split() == ["diffusion", "index", "(DI)", "x,", "y,", "side", "hat", "ours"]
    assert f"Mean DI: hat ({record['mean_di']['hat']:.2f}) > ours ({record['mean_di']['ours']:.2f})" in said
    assert "4 steps: a first look; published figures are of 50." in said
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(
        ["lam.json", "lam.npz", *(f"lam_{name}.png" for name in names)]
    )
    assert read_image(Path("out/lam_cat.png")).shape[1] > 6 * 200
    with np.load("out/lam.npz") as arrays:
        assert arrays["ours/dog_20_3_8/map"].shape == (13, 12)
        signed = np.abs(arrays["hat/cat/signed"])
        assert np.array_equal(arrays["hat/cat/map"], signed / signed.max())
    assert written.err.count("reaches over the border of the SR image (24 x 26); the 3 x 8 pixels inside count") == 1
    assert "cat: the window with the most detail is" in written.err


def test_one_window_of_lr_images_of_any_scale(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lam("-w", "tiny.pth", "-i", "pictures/cat.png", "--input_is", "lr", "--window", "10,10,8", "--crop", "0,0,12,12")
    assert "hat" not in capsys.readouterr().out
    record = json.loads(Path("out/lam.json").read_text())
    assert record["windows"][0]["lr_size"] == [12, 12]
    assert record["windows"][0]["networks"]["tiny"]["psnr_y"] is None
    assert {path.name for path in Path("out").iterdir()} == {"lam.json", "lam.npz", "lam.png"}


def test_flat_places_are_reported(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = network_of(TINY)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()  # what is left is bilinear upsampling
    torch.save({"params": network.state_dict(), "focalsr": {"options": {"network_g": dict(TINY)}}}, "bilinear.pth")
    pixels = np.full((24, 24, 3), 90, np.uint8)
    write_image(place / "constant.png", pixels)
    pixels[:, 16:] = 20
    write_image(place / "edge.png", pixels)
    lam("-w", "bilinear.pth", "-i", "edge.png", "constant.png", "--window", "5,8,8")
    windows = json.loads(Path("out/lam.json").read_text())["windows"]
    said = capsys.readouterr().err
    assert windows[0]["networks"]["bilinear"]["undefined"] > 0
    assert "bilinear, edge: the SR image is flat in the window 5,8,8 at" in said
    assert "bilinear, constant: nothing in the LR image changes the window 5,8,8 on the path" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "26,0,8"], r"--window: cat: the window 26,0,8 .* begins outside the SR image, which has 24 x 26"),
        (["--window", "cta=1,1,8"], r'--window cta=1,1,8: no image has this name \(did you mean "cat"\?\)'),
        (["--window", "1,1,0"], "its side must be at least 1"),
        (["--steps", "0"], r"--steps must be from 1 to 10,000, got 0"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--tile", "64"], "--tile has no meaning here"),
        (["-w", "net.onnx"], "an ONNX file has neither gradients nor layers"),
        (["--crop", "0,0,8,8"], "the LR image has 4 x 4 pixels"),
    ],
)
def test_bad_input_is_one_sentence(place: Path, arguments: list[str], message: str) -> None:
    (place / "net.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(InputError, match=message):
        lam("-w", "tiny.pth", *arguments)
    assert not Path("out").exists()
