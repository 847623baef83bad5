"""Damage to weight files: every changed byte is found, or changes nothing."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from archs import build_network
from models.weights import files
from models.weights.files import load_weights, read_checkpoint, write_checkpoint, write_safetensors
from utils.errors import InputError
from utils.tensor_files import sums

ULTRA = {"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 4], "scale": 2}
CONTENT: dict[str, Any] = {
    "params": {"a": torch.arange(20.0), "b": torch.ones(3), "c": torch.arange(20.0).flip(0)}, "focalsr": {"step": 3},
}  # fmt: skip


def equal(one: Any, two: Any) -> bool:
    """Whether two contents of files are the same."""
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, Tensor):
        return isinstance(two, Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    return type(one) is type(two) and bool(one == two)


def ours(path: Path) -> None:
    write_checkpoint(path, CONTENT)


def of_torch(path: Path) -> None:
    torch.save(CONTENT, path)


def compressed(path: Path) -> None:
    torch.save(CONTENT, path)
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as source, zipfile.ZipFile(path, "w", 8) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))


def ours_safetensors(path: Path) -> None:
    write_safetensors(path, CONTENT["params"], {"network_g": "{}"})


WRITERS: list[Callable[[Path], None]] = [ours, of_torch, compressed, ours_safetensors]


@pytest.mark.parametrize("write", WRITERS)
def test_a_changed_byte_anywhere_is_found_or_changes_nothing(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "net.pth"
    write(path)
    content, expected = path.read_bytes(), read_checkpoint(path)
    found = 0
    for at in range(len(content)):
        value = content[at] ^ (0x10 if at % 3 else 1 << at % 8)
        path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
        try:
            assert equal(read_checkpoint(path), expected), (at, value)
        except InputError as error:
            assert str(path) in str(error)
            found += 1
    assert found > len(content) / 2


@pytest.mark.parametrize("write", WRITERS)
def test_a_cut_file_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "net.pth"
    write(path)
    content = path.read_bytes()
    for length in {*range(0, len(content), 97), *range(len(content) - 120, len(content))}:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"net\.pth"):
            read_checkpoint(path)


def test_bytes_behind_the_end_of_a_file_of_ours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    ours(path)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(InputError, match="its end is not as it was written: bytes were changed, cut off or added"):
        read_checkpoint(path)
    of_torch(path)
    path.write_bytes(path.read_bytes() + b"more")
    assert equal(read_checkpoint(path), CONTENT)


def test_a_name_that_two_parts_have_is_refused(tmp_path: Path) -> None:
    """Python's zipfile looks the second one up twice, and torch reads one of the two."""
    path = tmp_path / "net.pth"
    of_torch(path)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"/data/2")
    content[at : at + 7] = b"/data/0"
    path.write_bytes(content)
    with pytest.raises(InputError, match="two of its parts have the same name"):
        read_checkpoint(path)


def test_a_part_that_claims_to_be_a_folder_is_refused(tmp_path: Path) -> None:
    """The reader of torch leaves the memory of such a tensor as it is, with whatever was there."""
    path = tmp_path / "net.pth"
    of_torch(path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2", 0, content.rindex(b"/data/2"))
    content[entry + 38] |= 0x10  # of the attributes
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["params"]["c"], CONTENT["params"]["c"])
    with pytest.raises(InputError, match=r"the entry of its part .*data/2 is broken"):
        read_checkpoint(path)


def test_two_hundred_garbled_weight_files_load_the_same_or_not_at_all(tmp_path: Path) -> None:
    source, target = build_network(ULTRA), build_network(ULTRA)
    expected = source.state_dict()
    path = tmp_path / "net.pth"
    refused = 0
    for number in range(200):
        random = np.random.default_rng(number)
        if number % 100 == 0:
            (write_checkpoint if number else lambda path, content: torch.save(content, path))(
                path, {"params": expected}
            )
            content = np.fromfile(path, np.uint8)
        damaged = content.copy()
        places = random.integers(0, len(content), int(random.integers(1, 1025)))
        damaged[places] = random.integers(0, 256, len(places), np.uint8)
        damaged.tofile(path)
        try:
            load_weights(target, path, "params")
        except InputError:
            refused += 1
            continue
        assert equal(dict(target.state_dict()), dict(expected)), number
    assert refused > 150


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_large_file_is_compared_while_it_is_read(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "_AT_ONCE", 0)
    monkeypatch.setattr(sums, "_BLOCK", 1000)
    source, target = build_network(ULTRA), build_network(ULTRA)
    path = tmp_path / f"net.{suffix}"
    if suffix == "pth":
        write_checkpoint(path, {"params": source.state_dict()})
    else:
        write_safetensors(path, source.state_dict(), {})
    load_weights(target, path)
    assert equal(dict(target.state_dict()), dict(source.state_dict()))
    before = {key: value.clone() for key, value in target.state_dict().items()}
    content = bytearray(path.read_bytes())
    wanted = source.state_dict()["body.0.conv.weight" if "body.0.conv.weight" in before else next(iter(before))]
    content[bytes(content).index(wanted.numpy().tobytes()) + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="the file is damaged: its checksum is wrong"):
        load_weights(target, path)
    with pytest.raises(InputError, match="the file is damaged: its checksum is wrong"):
        load_weights(build_network({**ULTRA, "scale": 4}), path)  # rather than that it does not fit
    assert equal(dict(target.state_dict()), before)


def test_torch_and_safetensors_read_what_is_sealed(tmp_path: Path) -> None:
    ours(tmp_path / "net.pth")
    for mapped in (False, True):
        assert equal(torch.load(tmp_path / "net.pth", weights_only=True, mmap=mapped), CONTENT)
    with zipfile.ZipFile(tmp_path / "net.pth") as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"focalsr-crc32:")
    ours_safetensors(tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert set(file.metadata()) == {"format", "network_g", sums.SEAL_KEY}
        assert torch.equal(file.get_tensor("a"), CONTENT["params"]["a"])


def test_safetensors_whose_metadata_were_copied_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(CONTENT["params"], path, {sums.SEAL_KEY: "01234567"})
    with pytest.raises(InputError, match=r"net\.safetensors: .*its checksum is wrong"):
        read_checkpoint(path)
    save_file(CONTENT["params"], path, {sums.SEAL_KEY: "none"})
    with pytest.raises(InputError, match='the entry "focalsr_crc32" of its metadata is no checksum'):
        read_checkpoint(path)


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="torch always writes checksums")
def test_a_file_whose_checksums_were_left_out_loads(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        of_torch(tmp_path / "net.pth")
        ours(tmp_path / "ours.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    for name in ("net.pth", "ours.pth"):
        assert equal(read_checkpoint(tmp_path / name), CONTENT)
    content = bytearray((tmp_path / "ours.pth").read_bytes())
    content[bytes(content).index(struct.pack("<3f", 1, 1, 1))] ^= 1
    (tmp_path / "ours.pth").write_bytes(content)
    with pytest.raises(InputError, match="its checksum is wrong"):
        read_checkpoint(tmp_path / "ours.pth")


def test_an_error_while_a_file_is_compared_is_one_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours(tmp_path / "net.pth")

    def broken(*_: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sums, "reader", lambda file: broken)
    with pytest.raises(InputError, match=r"net\.pth: the file cannot be read: Input/output error"):
        files.read_checkpoint(tmp_path / "net.pth")
