"""The report of activations, and what uses the list that it stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archs import build_network
from data.images.files import read_image
from models.weights.files import write_network
from models.weights.recognise import configuration, network_from_weights, stored_keep
from scripts import range_report, upscale
from tests.runs import TEST_FILE, run_here
from tests.scripts.upscale.runs import picture
from utils.command import run_command

NETWORK = {"type": "PlainUSR_ultra_inference", "n_feat": 8, "im_feat": [8, 4], "scale": 2}
LIST = ("block1.body.0", "block1.body.1", "block1.body.2")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, and weights of which two layers meet in numbers that float16 does not hold."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("models.precision.choice.native_precisions", lambda device: frozenset({"fp16", "bf16"}))
    for number in range(2):
        picture(tmp_path / f"held_out/HR/{number}.png", 40, 32, seed=number)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network: Any = build_network(NETWORK)
        factor = 3e5  # the leaky ReLU between the two lets it through
        network.block1.body[0].weight.mul_(factor)
        network.block1.body[0].bias.mul_(factor)
        network.block1.body[2].weight.div_(factor)
    state = network.state_dict()
    content = {"params": state, "params_ema": state, "focalsr": {"options": {"network_g": NETWORK}, "step": 7}}
    torch.save(content, "net.pth")
    torch.save(network.state_dict(), "bare.pth")
    write_network(Path("net.safetensors"), content)
    return tmp_path


def report(*arguments: str) -> int:
    return run_command(range_report.main, ["-i", "held_out/HR", *arguments, "--device", "cpu"])


def upscaled(weights: str, precision: str, folder: str) -> list[Any]:
    arguments = ["-i", "held_out/HR", "-o", folder, "-w", weights, "--precision", precision, "--cpu"]
    assert run_command(upscale.main, arguments) == 0
    return [read_image(path).astype(int) for path in sorted(Path(folder).iterdir())]


def test_the_report_names_the_layers_and_what_they_cost(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report("-w", "net.pth", "--json", "report.json", "--rows", "5") == 0
    said = capsys.readouterr().out
    assert "to stay in float32 (2 pictures, margin 4):" in said
    assert "  block1.body.2: it is given " in said
    assert "more layers are further away; --rows 0 shows all" in said
    assert {line.split()[1] for line in said.splitlines() if line.startswith("* ")} == set(LIST)
    assert "float16: not finite" in said
    assert "float16 with float32 layers: " in said
    found = json.loads(Path("report.json").read_text())
    assert found["float32"] == list(LIST)
    assert set(found["reasons"]) == set(LIST)
    assert 0 < found["share_of_multiply_adds"] < 0.6
    assert 0 < found["share_of_weights"] < 0.6
    kept = found["losses"]["float16 with float32 layers"]
    assert kept["finite"]
    assert kept["levels"] <= 1
    assert not found["losses"]["float16"]["finite"]
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert layers["block1.body.2"]["given"] > 65504 / 4
    assert layers["head"]["result"] < 100


@pytest.mark.parametrize("weights", ["net.pth", "net.safetensors", "bare.pth"])
def test_the_list_is_stored_with_the_weights_and_used(
    place: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"with list{Path(weights).suffix}"
    before = Path(weights).read_bytes()
    assert stored_keep(Path(weights)) == ()
    assert report("-w", weights, "-o", target) == 0
    assert Path(weights).read_bytes() == before
    assert stored_keep(Path(target)) == LIST
    # All else is as it was.
    assert configuration(Path(target)) == configuration(Path(weights))
    first, second = (network_from_weights(Path(path)).state_dict() for path in (weights, target))
    assert all(torch.equal(first[key], second[key]) for key in first)
    full = upscaled(weights, "fp32", "full")
    half = upscaled(target, "fp16", "half")
    assert max(np.abs(a - b).max() for a, b in zip(full, half, strict=True)) <= 1
    capsys.readouterr()
    arguments = ["-i", "held_out/HR", "-o", "without", "-w", weights, "--precision", "fp16", "--cpu"]
    assert run_command(upscale.main, arguments) == 1
    error = capsys.readouterr().err
    assert "not finite (NaN or infinity), in float16, first in the layer block1.body.0 (convolution" in error
    assert "let scripts/range_report.py find the layers" in error


def test_an_option_file_names_the_network_and_the_weights(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = "scale: 2\nnetwork_g: {type: PlainUSR_ultra_inference, n_feat: 8, im_feat: [8, 4], scale: 2}\n"
    Path("test.yml").write_text(f"{described}path: {{pretrain_network_g: bare.pth}}\n")
    Path("other.yml").write_text(described)
    assert report("-opt", "test.yml", "-o", "listed.pth") == 0
    assert stored_keep(Path("listed.pth")) == LIST
    for arguments, said in ((["-opt", "other.yml"], "other.yml: names no weights"), ([], "-w, a file of weights, or")):
        assert report(*arguments) == 2
        assert said in capsys.readouterr().err


def test_a_test_run_uses_the_list(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report("-w", "net.pth", "-o", "listed.pth") == 0
    text = TEST_FILE.replace("PlainUSR_ultra,", "PlainUSR_ultra_inference,").replace(
        "save_img: true", "save_img: false"
    )
    Path("test.yml").write_text(text)

    def tested(*edits: str) -> int:
        return run_here("test.py", "-opt", "test.yml", "--force_yml", *edits)

    psnr = []
    for weights, precision in (("net.pth", "fp32"), ("listed.pth", "fp16")):
        assert tested(f"path:pretrain_network_g={weights}", f"precision={precision}") == 0
        found = json.loads(Path("results/tiny_test/scores.json").read_text())
        psnr.append(found["datasets"]["HeldOut"]["mean"]["scores"]["psnr"])
    assert abs(psnr[0] - psnr[1]) < 0.01
    assert (found["precision"], found["float32_layers"]) == ("fp16", list(LIST))
    assert found["way"] == "whole images, in float16, some layers in float32"
    capsys.readouterr()
    assert tested("path:pretrain_network_g=net.pth", "precision=fp16") == 1
    assert "first in the layer block1.body.0 (convolution" in capsys.readouterr().err


def test_the_weights_themselves_can_be_replaced(place: Path) -> None:
    assert report("-w", "net.pth", "-o", "net.pth") == 2
    assert report("-w", "net.pth", "-o", "net.pth", "--overwrite") == 0
    assert stored_keep(Path("net.pth")) == LIST
    assert torch.load("net.pth", weights_only=True)["focalsr"]["step"] == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-w", "net.pth", "-o", "list.safetensors"), "net.pth is copied as it is; choose a name that ends in .pth"),
        (("-w", "net.pth", "--json", "held_out/HR/0.png"), "0.png exists; choose another name or add --overwrite"),
        (("-w", "net.pth", "--margin", "0.5"), "--margin must be a number of at least 1, got 0.5"),
        (("-w", "none.pth"), "none.pth"),
        (("-w", "net.onnx"), "net.onnx: the layers of an ONNX file are not seen"),
        (("-w", "net.pth", "-i", "nowhere.png"), "nowhere.png"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(*arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_lists_of_another_form_are_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for record in ("text", {"float32": "head"}, {"float32": [1]}):
        torch.save({"params": {}, "focalsr": {"precision": record}}, "odd.pth")
        assert stored_keep(Path("odd.pth")) == ()


def test_a_picture_is_enough_and_a_network_that_needs_nothing_says_so(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save({"params": build_network(NETWORK).state_dict()}, "sound.pth")
    assert run_command(range_report.main, ["-w", "sound.pth", "-i", "held_out/HR/0.png", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "no layer has to stay in float32 (1 picture, margin 4)" in said
    assert "float16 with float32 layers" not in said
