"""``network_g: {type: onnx}``: what may stand beside it, and where it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config import read
from config.docs_generator import json_schema
from tests.config.files import TEST, TRAIN, write
from utils.errors import InputError

FILE = "network_g: {type: onnx, path: a folder/net.onnx, provider: openvino}"


def with_file(text: str, section: str = FILE) -> str:
    start = text.index("network_g:")
    end = next(i for i in range(start + 1, len(text)) if text[i] == "\n" and text[i + 1 : i + 2].strip() != "")
    return text[:start] + section + text[end:]


def test_a_test_file_may_name_an_onnx_file(tmp_path: Path) -> None:
    options = read(write(tmp_path, with_file(TEST)), mode="test")
    assert options.network_g.is_file
    assert options.network_g.arguments == {"path": Path("a folder/net.onnx"), "provider": "openvino"}


def test_weights_beside_it_have_no_effect(tmp_path: Path) -> None:
    edits = ["path:pretrain_network_g=w.pth", "path:param_key_g=params"]
    options = read(write(tmp_path, with_file(TEST)), edits, mode="test")
    assert options.path.pretrain_network_g is None
    assert sum("an ONNX file (network_g) holds its weights" in note for note in options.notes) == 2


def test_it_is_not_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"network_g\.type: an ONNX file has no gradient and cannot be trained"):
        read(write(tmp_path, with_file(TRAIN)), mode="train")


def test_its_precision_was_chosen_before(tmp_path: Path) -> None:
    path = write(tmp_path, with_file(TEST))
    assert read(path, ["precision=fp32"], mode="test").network_g.is_file
    for key in ("precision", "val:precision"):
        with pytest.raises(InputError, match=r"precision: what an ONNX file computes in was chosen when"):
            read(path, [f"{key}=bf16"], mode="test")


def test_its_keys_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'network_g: the key "path" of onnx is missing'):
        read(write(tmp_path, with_file(TEST, "network_g: {type: onnx}")), mode="test")
    with pytest.raises(InputError, match=r'network_g\.provder: unknown key of onnx \(did you mean "provider"\?\)'):
        read(write(tmp_path, with_file(TEST, "network_g: {type: onnx, path: a, provder: cpu}")), mode="test")
    with pytest.raises(InputError, match=r'unknown network type "ONNX" \(did you mean "onnx"\?\)'):
        read(write(tmp_path, with_file(TEST, "network_g: {type: ONNX, path: a}")), mode="test")
    with pytest.raises(InputError, match=r'network_g\.scale: expected the "scale" of the file, 4, got 3'):
        read(write(tmp_path, with_file(TEST, "network_g: {type: onnx, path: a, scale: 3}")), mode="test")


def test_editors_know_it() -> None:
    assert '"onnx"' in json.dumps(json_schema())
