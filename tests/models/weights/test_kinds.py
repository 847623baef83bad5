"""What is no weight file is named for what it is; safetensors and torch files are told apart by content."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from models.weights.files import load_weights, read_checkpoint
from tests.states import Tiny
from utils.errors import InputError
from utils.seed import random_stream

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 84429\n"
PAGE = b"\n<!DOCTYPE html><html><head>\n<title>Drive - virus\n scan</title></head></html>"


def torch_bytes(content: object, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def tar_of(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("HAT.pth")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_with(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"1")
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.ones(3))
    return buffer.getvalue()


STATE = {"conv.weight": torch.ones(4, 3, 3, 3)}
KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "the file is empty; download it again"),
    "page": (lambda: PAGE, r'a web page \("Drive - virus scan"\) instead of the weights: .*; download it again'),
    "comment": (lambda: b"<!-- saved -->\n<html></html>", "a web page instead of the weights"),
    "lfs": (lambda: LFS, "a Git LFS pointer of 70 bytes instead of the weights; run 'git lfs pull'"),
    "json": (
        lambda: b'{"error": "Invalid username or password."}',
        r"a JSON file that begins with .*download it again",
    ),
    "text": (lambda: b"404: Not Found", 'a text file that begins with "404: Not Found", not weights'),
    "zip": (
        lambda: zip_with("weights/", "weights/HAT.pth"),
        r"a zip archive that holds weights/HAT\.pth; unpack it and give the file inside",
    ),
    "tar": (lambda: tar_of(b"1"), r"a tar archive that holds HAT\.pth; unpack it"),
    "gzip": (lambda: gzip.compress(b"1" * 99), "a gzip archive; unpack it"),
    "7z": (lambda: b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7z archive; unpack it"),
    "onnx": (
        lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.6.0",
        r"an ONNX model, a graph that is run and not loaded \(network_g: {type: onnx, path: FILE}\); take the PyTorch",
    ),
    "torchscript": (
        lambda: zip_with("net/data.pkl", "net/code/__torch__.py", "net/constants.pkl"),
        r"a TorchScript archive, .*torch\.jit\.load",
    ),
    "exported": (
        lambda: zip_with("net/data.pkl", "net/models/model.json"),
        r"a program of torch\.export, not its weights; take the PyTorch",
    ),
    "npz": (npz, r"a NumPy archive, as numpy\.savez writes them"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n\x00\x00", "an HDF5 file, as Keras writes them, not weights"),
    "picture": (lambda: b"\x89PNG\r\n\x1a\n\x00", r"a picture \(PNG\), not weights"),
    "film": (lambda: b"\0\0\0\x18ftypisom\0\0\2\0", r"a film \(MP4\), not weights"),
    "cut torch": (lambda: torch_bytes(STATE)[:-200], "the file is cut off: only its first [0-9,]+ bytes are there"),
    "cut safetensors": (
        lambda: save(STATE)[:20],
        r"a safetensors file that is cut off \(20 bytes\); download it again",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_named(tmp_path: Path, kind: str) -> None:
    make, message = KINDS[kind]
    path = tmp_path / "net.pth"
    path.write_bytes(make())
    with pytest.raises(InputError, match=rf"net\.pth: not a readable checkpoint: {message}") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    path = path.rename(tmp_path / "net.safetensors")
    with pytest.raises(InputError, match=message):
        read_checkpoint(path)


def test_an_option_file_in_the_place_of_weights_is_no_download(tmp_path: Path) -> None:
    (tmp_path / "train.yml").write_text("# HAT x4\nname: hat\n")
    with pytest.raises(InputError, match=r"train\.yml: .*: an option file, not weights; give it as -opt FILE"):
        read_checkpoint(tmp_path / "train.yml")


def test_a_safetensors_file_without_its_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(save(STATE)[:-8])
    with pytest.raises(InputError, match=r"net\.safetensors: not a readable safetensors file: "):
        read_checkpoint(tmp_path / "net.safetensors")


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net.ckpt", "net"])
@pytest.mark.parametrize("kind", ["torch", "legacy", "safetensors"])
def test_the_content_says_which_kind_of_weights_a_file_holds(tmp_path: Path, name: str, kind: str) -> None:
    source, target, path = Tiny(), Tiny(), tmp_path / name
    if kind == "safetensors":
        path.write_bytes(save(source.state_dict()))
    else:
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=kind == "torch")
    assert not load_weights(target, path)
    assert torch.equal(source.conv.weight, target.conv.weight)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_network_is_refused_with_the_way_to_its_weights(tmp_path: Path, zipped: bool) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 3, 1)), tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        InputError, match=r"net\.pth: refused, because it holds a whole network .*state_dict\(\), 'OUT\.pth'"
    ):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize("kind", ["torch", "legacy", "safetensors"])
def test_a_damaged_file_is_never_a_fault_of_the_program(tmp_path: Path, kind: str) -> None:
    content = {"params": STATE, "best": np.float64(1.5), "list": np.arange(3), "kind": np.dtype("f4")}
    data = save(STATE) if kind == "safetensors" else torch_bytes(content, zipped=kind == "torch")
    random, path = random_stream(0), tmp_path / "net.pth"
    for _ in range(150):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged[: random.integers(1, 2 * len(data))])
        try:
            read_checkpoint(path)
        except InputError as error:
            assert "net.pth" in str(error)


def test_a_folder_is_no_weight_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, not a weight file"):
        read_checkpoint(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_no_weight_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a pipe or a device, not a weight file"):
        read_checkpoint(tmp_path / "pipe")


def test_numbers_of_numpy_are_read(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "best_psnr": np.float64(31.25), "step": np.int64(7), "done": np.bool_(True), "name": np.str_("Größe"),
        "kind": np.dtype("float32"), "turned": np.arange(6, dtype=">f4").reshape(2, 3).T, "list": [np.float16(0.5)],
    }  # fmt: skip
    torch.save({"params": Tiny().state_dict(), "nested": values}, tmp_path / "net.pth")
    assert not load_weights(Tiny(), tmp_path / "net.pth")
    found = read_checkpoint(tmp_path / "net.pth")["nested"]
    for key, value in values.items():
        assert np.array_equal(found[key], value), key
        assert type(found[key]) is type(value), key


@pytest.mark.parametrize("value", [np.array([object()]), np.array([(1, "a")], dtype="i4,U1"), np.array([print])])
def test_objects_inside_arrays_of_numpy_are_refused(tmp_path: Path, value: object) -> None:
    torch.save({"params": value}, tmp_path / "net.pth")
    with pytest.raises(InputError, match="refused"):
        read_checkpoint(tmp_path / "net.pth")


class Numpys:
    """Names that NumPy's pickles use, called with what they are not called with."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("data", [b"", b"1234", 5])
def test_a_scalar_of_numpy_with_other_content_is_refused(tmp_path: Path, data: object) -> None:
    scalar = np.float64(1).__reduce__()[0]
    torch.save({"a": Numpys(scalar, np.dtype("f8"), data)}, tmp_path / "net.pth")
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "net.pth")
