"""Exported networks compute the same and load anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from archs import build_network
from models.export import files
from models.export.onnx_files import onnx_model
from models.weights.files import load_weights
from models.weights.keep import write_with_keep
from models.weights.recognise import configuration, stored_keep
from tests.models.export.networks import TINY, needs_torch, weights_of
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


def test_the_list_of_layers_in_float32_goes_along(tmp_path: Path) -> None:
    source, target = tmp_path / "net.pth", tmp_path / "net.safetensors"
    torch.save({"params": build_network(TRAIN).state_dict()}, source)
    write_with_keep(source, source, {"float32": ["head", "!tail"]})
    assert run_command(main_of("scripts/export.py"), ["-w", str(source), "-o", str(target)]) == 0
    assert stored_keep(target) == ("head", "!tail")


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
    assert run_command(export, ["-w", str(tmp_path / "other.pth"), "-o", str(tmp_path / "x.pb")]) == 2
    assert "ends in one of .pth, .safetensors, .onnx, .pt2" in capsys.readouterr().err


def run_export(*arguments: object) -> int:
    return run_command(main_of("scripts/export.py"), [str(argument) for argument in arguments])


@needs_torch
def test_a_program_is_checked_and_then_has_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    weights, target = weights_of(TINY, tmp_path / "net_g_latest.pth"), tmp_path / "net.onnx"
    assert run_export("-w", weights, "-o", target) == 0
    shown = capsys.readouterr()
    for text in ("check 1/3, 1 image of 2x2: largest difference", "check 2/3, 3 images of", "check 3/3, 2 images of"):
        assert text in shown.err
    assert all("INFO: " in line for line in shown.err.splitlines()), shown.err
    first, second = shown.out.splitlines()
    assert first.startswith(f"{target}: {{'type': 'MSRResNet'")
    assert "fp32, for images from 1x1; checked by ONNX Runtime" in second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net_g_latest.pth"]
    assert run_export("-w", weights, "-o", target) == 2  # never overwritten unasked
    assert f"{target} exists" in capsys.readouterr().err


@needs_torch
def test_a_program_that_differs_from_the_network_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    from onnx import numpy_helper

    def damaged(*arguments: object) -> object:
        model = onnx_model(*arguments)  # type: ignore[arg-type]
        [bias] = [tensor for tensor in model.graph.initializer if tensor.name == "network.conv_last.bias"]
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 0.02, bias.name))
        return model

    monkeypatch.setattr(files, "onnx_model", damaged)
    weights, target = weights_of(TINY, tmp_path / "net_g_latest.pth"), tmp_path / "net.onnx"
    target.write_bytes(b"an older file")
    assert run_export("-w", weights, "-o", target, "--overwrite") == 1
    shown = capsys.readouterr().err
    assert "output differs from the network's by 2.0e-02 (6 of 255 levels), and 1.0e-04 is allowed" in shown
    assert "Traceback" not in shown
    assert target.read_bytes() == b"an older file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net_g_latest.pth"]
    assert run_export("-w", weights, "-o", target, "--overwrite", "--tolerance", "0.03") == 0
    assert "6 of 255 levels (allowed: 3.0e-02)" in capsys.readouterr().out


WRONG = [
    ("net.onnx", ["--static", "48"], "--static 48: expected height x width in pixels, such as --static 180x320"),
    ("net.onnx", ["--static", "0x48"], "--static 0x48: expected height x width"),
    ("net.onnx", ["--batch", "2"], "--batch fixes how many images of --static HxW there are"),
    ("net.onnx", ["--static", "48x48", "--batch", "0"], "--batch 0: expected at least 1"),
    ("net.onnx", ["--precision", "bf16", "--opset", "18"], "--opset 18 has no convolutions in bf16; choose --opset 23"),
    ("net.onnx", ["--aot"], "--aot writes a package for torch; net.onnx does not end in .pt2"),
    ("net.pt2", ["--opset", "18"], "--opset is about ONNX; net.pt2 holds a program of torch"),
    ("net.pth", ["--precision", "fp16"], "--precision is about programs; net.pth holds weights alone"),
    ("net.pth", ["--aot"], "--aot is about programs; net.pth holds weights alone"),
    ("net.onnx", ["--tolerance", "0"], "--tolerance 0: expected a number above 0"),
    ("net.onnx", ["--published"], "--published is about weights; net.onnx holds a program"),
    ("net.pth", ["--static", "48x48"], "--static is about programs; net.pth holds weights alone"),
    ("net.safetensors", ["--opset", "18"], "--opset is about programs; net.safetensors holds weights alone"),
    ("net", [], "net: expected a name that ends in one of .pth, .safetensors, .onnx, .pt2"),
]


@needs_torch
@pytest.mark.parametrize(("name", "flags", "message"), WRONG)
def test_flags_that_cannot_be_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, flags: list[str], message: str
) -> None:
    assert run_export("-w", tmp_path / "none.pth", "-o", tmp_path / name, *flags) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.splitlines()) == 1


@needs_torch
@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_package_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    there: Callable[[str], object] = lambda name: None if name == missing else name  # noqa: E731
    monkeypatch.setattr("utils.optional.importlib.util.find_spec", there)
    assert run_export("-w", tmp_path / "none.pth", "-o", tmp_path / "net.onnx") == 2
    expected = f"error: net.onnx needs the package {missing}: pip install -r requirements-export.txt\n"
    assert capsys.readouterr().err == expected


def test_older_torch_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.8.1+cpu")
    assert run_export("-w", tmp_path / "none.pth", "-o", tmp_path / "net.onnx") == 2
    assert "programs are exported with torch 2.9 or later; this is 2.8.1+cpu" in capsys.readouterr().err


@needs_torch
def test_a_package_needs_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no such compiler")
    assert run_export("-w", tmp_path / "none.pth", "-o", tmp_path / "net.pt2", "--aot") == 2
    expected = "error: --aot: AOTInductor compiles C++, and CXX=no such compiler names no program\n"
    assert capsys.readouterr().err == expected


@needs_torch
def test_another_scale_of_a_network_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = weights_of(TINY, tmp_path / "net_g_latest.pth")
    assert run_export("-w", weights, "-o", tmp_path / "net.pt2", "--scale", "3") == 2
    assert (
        "--scale 3: this MSRResNet upscales by 2; only networks such as ESCLTE take any scale"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "net.pt2").exists()


@needs_torch
def test_a_network_that_cannot_be_traced_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as one of BasicSR's that asks for the values of its images."""

    def forward(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, scale_factor=2) * (2 if x.sum().item() > 1 else 3)

    monkeypatch.setattr("archs.srresnet.network.MSRResNet.forward", forward)
    weights, target = weights_of(TINY, tmp_path / "net_g_latest.pth"), tmp_path / "net.pt2"
    assert run_export("-w", weights, "-o", target) == 1
    shown = capsys.readouterr().err
    assert "ERROR: MSRResNet cannot be exported: torch.export refuses it (" in shown
    assert "Traceback" not in shown
    assert not target.exists()


@needs_torch
def test_a_discriminator_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from archs import build_discriminator

    state = build_discriminator({"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}).state_dict()
    torch.save({"params": state}, tmp_path / "net_d_latest.pth")
    assert run_export("-w", tmp_path / "net_d_latest.pth", "-o", tmp_path / "net.pt2") == 2
    assert "holds a discriminator (UNetDiscriminatorSN), which upscales nothing" in capsys.readouterr().err
