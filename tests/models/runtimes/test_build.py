"""Files that cannot be used as networks: one sentence each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from models.runtimes.build import open_network
from models.runtimes.onnx_file import is_onnx, read_onnx
from tests.onnx_graphs import FACTS, any_scale_file, tiny_file
from utils.errors import InputError

pytest.importorskip("onnxruntime")

Make = Callable[[Path], object]


def cut(path: Path, keep: float) -> None:
    data = tiny_file(path).read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def outside(path: Path, link: bool) -> None:
    name = "there.bin" if link else "../there.bin"
    tiny_file(path, external=name)
    (path.parent / "there.bin").rename(path.parents[1] / "there.bin")
    if link:
        (path.parent / "there.bin").symlink_to(path.parents[1] / "there.bin")


def without_weights(path: Path) -> None:
    tiny_file(path, external="weights.bin")
    (path.parent / "weights.bin").unlink()


BAD: dict[str, tuple[Make, str]] = {
    "absent": (lambda path: None, r"net\.onnx: there is no such file \(python scripts/export\.py"),
    "folder": (lambda path: path.mkdir(), r"net\.onnx: is a folder"),
    "empty": (lambda path: path.touch(), r"net\.onnx: is no ONNX file but the file is empty"),
    "cut": (lambda path: cut(path, 0.5), r"net\.onnx: is damaged or cut short"),
    "barely cut": (lambda path: cut(path, 0.99), r"net\.onnx: is damaged or cut short"),
    "page": (lambda path: path.write_bytes(b"<html><title>Login</title>"), "is no ONNX file but a web page"),
    "pickle": (lambda path: path.write_bytes(b"\x80\x02}q\x00."), "is no ONNX file"),
    "other program": (lambda path: tiny_file(path, None), "was written by another program and does not say"),
    "library": (
        lambda path: tiny_file(path, operator="Magic", domain="my.operators"),
        r"has operators of my\.operators, which need a library",
    ),
    "context": (
        lambda path: tiny_file(path, operator="EPContext", domain="com.microsoft"),
        "is a wrapper around a program that was compiled for one device",
    ),
    "unknown operator": (lambda path: tiny_file(path, operator="Magic"), "ONNX Runtime cannot load it: .*Magic"),
    "weights above": (lambda path: outside(path, link=False), r"weights are in \.\./there\.bin, outside of its folder"),
    "weights by a link": (lambda path: outside(path, link=True), r"weights are in there\.bin, outside of its folder"),
    "no weights": (without_weights, r"weights are in weights\.bin, which is not beside it"),
    "other names": (
        lambda path: tiny_file(path, dataclasses.replace(FACTS, input="image")),
        "says that it has image, output, and has input, output; its metadata is damaged",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_sentence_says_what_is_wrong(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    path = tmp_path / "models" / "net.onnx"
    path.parent.mkdir()
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        open_network(path)
    assert "\n" not in str(caught.value)


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    path = tiny_file(tmp_path / "net.onnx", external="weights.bin")
    assert read_onnx(path).external == {"weights.bin"}
    first = open_network(path).report.sha256
    content = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(content[::-1])
    assert open_network(path).report.sha256 != first


def test_the_scale_is_that_of_the_file(tmp_path: Path) -> None:
    path = tiny_file(tmp_path / "net.onnx")
    assert open_network(path, scale=2.0).scale == 2
    with pytest.raises(InputError, match=r"^--scale: .*net\.onnx is a network for x2, not for x4; export one"):
        open_network(path, scale=4, scale_key="--scale")
    unknown = any_scale_file(tmp_path / "any.onnx")
    unknown.write_bytes(unknown.read_bytes().replace(b'"scale": 4', b'"other": 4'))
    with pytest.raises(InputError, match=r"any\.onnx: is for any scale; say which one by scale"):
        open_network(unknown)
    assert open_network(unknown, scale=3).scale == 3


def test_files_of_other_programs_need_a_scale(tmp_path: Path) -> None:
    path = tiny_file(tmp_path / "net.onnx", None)
    assert open_network(path, scale=2).scale == 2
    static = open_network(tiny_file(tmp_path / "static.onnx", None, sizes=(1, 3, 8, 12)), scale=2)
    assert static.size_rule.largest == (8, 12)
    for wrong in (3, 1):
        with pytest.raises(InputError, match=rf"makes \[1, 3, 128, 128\] of .*a network for x{wrong} would make"):
            open_network(path, scale=wrong)


def test_files_are_known_by_their_content(tmp_path: Path) -> None:
    assert is_onnx(tiny_file(tmp_path / "net.pth"))
    assert is_onnx(tmp_path / "absent.onnx")
    assert not is_onnx(tmp_path / "absent.pth")
    (tmp_path / "other.pth").write_bytes(b"\x08\x08 not a graph")
    assert not is_onnx(tmp_path / "other.pth")
