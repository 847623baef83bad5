"""scripts/upscale.py with ONNX files: the same pictures, tiles and kinds of files, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.images.files import read_image, to_tensor, to_uint8
from models.inference.upscale import upscale
from tests.onnx_graphs import FACTS, Tiny, any_scale_file, tiny_file
from tests.scripts.upscale.runs import picture

pytest.importorskip("onnxruntime")

Run = Callable[..., int]


def assert_equal(result: Path, source: Path, *, ensemble: bool = False) -> None:
    """Equal to one level to what the same network makes in PyTorch."""
    expected = to_uint8(upscale(Tiny(), to_tensor(read_image(source)), self_ensemble=ensemble))
    assert np.abs(read_image(result).astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_pictures_are_those_of_pytorch(run: Run, folder: Path, tmp_path: Path, provider: str) -> None:
    pytest.importorskip("onnxruntime" if provider == "cpu" else provider)
    net = tiny_file(tmp_path / "net.onnx")
    for more in (), ("--tile", "8", "--overlap", "2"), ("--tile", "0"):
        assert run(folder, "--provider", provider, "--overwrite", *more, weights=net) == 0
        assert_equal(tmp_path / "out/a.png", folder / "a.png")
        assert_equal(tmp_path / "out/b.png", folder / "b.bmp")
    assert run(folder / "a.png", "--self_ensemble", "--overwrite", weights=net) == 0
    assert_equal(tmp_path / "out/a.png", folder / "a.png", ensemble=True)


def test_a_file_of_one_size_takes_pictures_of_any(run: Run, tmp_path: Path) -> None:
    net = tiny_file(tmp_path / "net.onnx", dataclasses.replace(FACTS, static=(16, 24)), sizes=(1, 3, 16, 24))
    source = picture(tmp_path / "in/a.png", 70, 90)
    assert run(source, weights=net) == 0
    assert_equal(tmp_path / "out/a.png", source)
    assert run(source, "--overwrite", "--tile", "12", "--overlap", "2", weights=net) == 0
    assert_equal(tmp_path / "out/a.png", source)


def test_the_scale_may_be_an_input(run: Run, tmp_path: Path) -> None:
    net = any_scale_file(tmp_path / "net.onnx")
    source = picture(tmp_path / "in/a.png", 4, 6)
    assert run(source, "--scale", "2.5", weights=net) == 0
    assert read_image(tmp_path / "out/a.png").shape == (10, 15, 3)
    assert run(source, "--overwrite", weights=net) == 0
    assert read_image(tmp_path / "out/a.png").shape == (16, 24, 3)


def test_files_of_other_programs_need_the_scale(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tiny_file(tmp_path / "net.onnx", None)
    source = picture(tmp_path / "in/a.png")
    assert run(source, weights=net) == 2
    assert "was written by another program and does not say by how much it upscales" in capsys.readouterr().err
    assert run(source, "--scale", "2", weights=net) == 0
    assert_equal(tmp_path / "out/a.png", source)
    (tmp_path / "opt.yml").write_text(f"network_g: {{type: onnx, path: '{net}', scale: 2}}\nscale: 2\n")
    assert run(source, "--overwrite", "-opt", str(tmp_path / "opt.yml"), weights=net) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--half",), "--half is for weights that PyTorch runs"),
        (("--precision", "bf16"), "--precision is for weights that PyTorch runs"),
        (("--device", "cpu"), "--device is for weights that PyTorch runs"),
        (("--scale", "4"), "--scale: {net} is a network for x2, not for x4"),
        (("--key", "params"), "--key params: {net} is an ONNX file, which has no entries"),
        (("--provider", "cupu"), '--provider: unknown provider "cupu" (did you mean "cpu"?)'),
        (("-opt", "options/test_hat_x4.yml"), "describes another network than {net}, which is an ONNX file"),
    ],
)
def test_options_that_say_nothing_to_it(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    net = tiny_file(tmp_path / "net.onnx")
    assert run(picture(tmp_path / "in/a.png"), *more, weights=net) == 2
    printed = capsys.readouterr().err
    assert message.format(net=net) in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out/a.png").exists()


def test_weights_have_no_provider(run: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--provider", "cpu") == 2
    assert "--provider is for ONNX files" in capsys.readouterr().err


def test_a_failed_pass_fails_the_picture(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that promises more sizes than its graph takes."""
    net = tiny_file(tmp_path / "net.onnx", sizes=("batch", 3, 16, 16))
    assert run(picture(tmp_path / "in/a.png"), weights=net) == 1
    assert "ONNX Runtime cannot run it on an image [1, 3, 20, 26]" in capsys.readouterr().err
