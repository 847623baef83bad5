"""Which network a weight file belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file

import archs
from models.weights.recognise import configuration, network_from_weights
from utils.errors import InputError

NETWORK = {"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 4], "scale": 2}


def test_our_own_say_it(tmp_path: Path) -> None:
    network = archs.build_network(NETWORK)
    content = {"params": network.state_dict(), "focalsr": {"options": {"network_g": {**NETWORK, "marked": True}}}}
    torch.save(content, tmp_path / "net.pth")
    assert configuration(tmp_path / "net.pth") == {**NETWORK, "marked": True}
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, tmp_path / "net.safetensors", {"network_g": json.dumps({**NETWORK, "marked": True})})
    assert configuration(tmp_path / "net.safetensors") == {**NETWORK, "marked": True}


def test_others_are_recognised(tmp_path: Path) -> None:
    network = archs.build_network(NETWORK)
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, tmp_path / "net.pth")
    found = configuration(tmp_path / "net.pth")
    assert archs.build_network(found).state_dict().keys() == network.state_dict().keys()
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, tmp_path / "net.safetensors")
    assert configuration(tmp_path / "net.safetensors") == found
    assert network_from_weights(tmp_path / "net.safetensors").scale == 2
    for text in ("PlainUSR", "3"):  # metadata of another program
        save_file(tensors, tmp_path / "net.safetensors", {"network_g": text})
        assert configuration(tmp_path / "net.safetensors") == found


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"params": archs.build_network(NETWORK).state_dict()}, tmp_path / "net.pth")
    reads = Mock(wraps=torch.load)
    monkeypatch.setattr(torch, "load", reads)
    network_from_weights(tmp_path / "net.pth")
    assert reads.call_count == 1


def test_unknown(tmp_path: Path) -> None:
    torch.save({"params": {"a": torch.zeros(1)}}, tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"net\.pth does not say which network it belongs to"):
        network_from_weights(tmp_path / "net.pth")


def test_a_discriminator_upscales_nothing(tmp_path: Path) -> None:
    judge = archs.build_discriminator({"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 2})
    torch.save({"params": judge.state_dict()}, tmp_path / "net_d_5.pth")
    with pytest.raises(InputError, match=r"net_d_5\.pth: holds a discriminator \(VGGStyleDiscriminator\), .*net_g_\*"):
        network_from_weights(tmp_path / "net_d_5.pth")


@pytest.mark.parametrize("shape", [(), (0,), (2, 2), (3, 3, 3, 3, 3)])
def test_known_names_with_other_shapes_are_no_fault_of_the_program(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for name in archs.build_network(NETWORK).state_dict():
        state = dict(archs.build_network(NETWORK).state_dict())
        state[name] = torch.zeros(shape)
        archs.identify(state)
    torch.save({name: torch.zeros(shape) for name in state}, tmp_path / "net.pth")
    with pytest.raises(InputError):
        network_from_weights(tmp_path / "net.pth")


@pytest.mark.parametrize("value", [3, None, "text", [1], {"options": 3}, {"options": {"network_g": 3}}])
def test_metadata_of_any_kind_are_passed_over(tmp_path: Path, value: object) -> None:
    state = archs.build_network(NETWORK).state_dict()
    torch.save({"params": state, "focalsr": value}, tmp_path / "net.pth")
    expected = configuration(tmp_path / "net.pth")
    assert expected["type"] == NETWORK["type"]
    for text in ("{", "3", "[" * 100_000, "\ud7ff"):
        save_file(state, tmp_path / "net.safetensors", {"network_g": text})
        assert configuration(tmp_path / "net.safetensors") == expected
