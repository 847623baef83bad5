"""The weights of VGG networks: where they are looked for, and files of something else."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from losses import PerceptualLossOptions, vgg_file, vgg_weights
from losses.vgg import VGGKind, shapes_of
from utils.errors import InputError

CPU = torch.device("cpu")
NAME = "vgg19-dcbb9e9d.pth"


def tensors(kind: VGGKind, last: int = 1000, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tensors of a network's layers up to ``features.LAST``; all the same one, so that files are small."""
    return {
        name: torch.full((1,), 0.5, dtype=dtype).expand(shape)
        for name, shape in shapes_of(kind).items()
        if int(name.split(".")[1]) <= last
    }


@pytest.fixture(autouse=True)
def empty_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither the working folder nor torch's cache holds anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path


def options(**more: Any) -> PerceptualLossOptions:
    return PerceptualLossOptions(**{"layer_weights": {"conv1_2": 1}, **more})


def test_the_users_file_comes_first_then_our_folder_then_torchvisions_cache(empty_places: Path) -> None:
    cached = empty_places / "cache" / "hub" / "checkpoints" / NAME
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert vgg_file(options()) == cached
    ours = Path("experiments/pretrained_models") / NAME
    ours.parent.mkdir(parents=True)
    ours.touch()
    assert vgg_file(options()) == ours
    given = Path("my vgg.pth")
    given.touch()
    assert vgg_file(options(vgg_weights=given)) == given
    with pytest.raises(InputError, match="vgg16-397923af"):
        vgg_file(options(vgg_type="vgg16"))


@pytest.mark.parametrize("kind", get_args(VGGKind))
def test_without_weights_one_sentence_says_which_file_goes_where(kind: VGGKind) -> None:
    with pytest.raises(InputError) as raised:
        options(vgg_type=kind, layer_weights={"conv1_1": 1}).build(CPU)
    message = str(raised.value)
    assert "\n" not in message
    assert re.search(
        rf"ImageNet weights of {kind} \({kind}-([0-9a-f]{{8}})\.pth, whose SHA-256 begins with \1\)", message
    )
    assert "put that file into experiments/pretrained_models or name it in vgg_weights" in message


def test_a_file_that_is_not_there_or_no_file_is_named(empty_places: Path) -> None:
    with pytest.raises(InputError, match=rf"vgg_weights: vgg.pth: there is no such file; it should be .*{NAME}"):
        vgg_file(options(vgg_weights="vgg.pth"))
    with pytest.raises(InputError, match=r"vgg_weights: .*: is no file"):
        vgg_file(options(vgg_weights=empty_places))


@pytest.mark.parametrize("form", ["torch", "before torch 1.6", "safetensors"])
def test_files_are_read_up_to_the_layer_in_float32_at_least(form: str) -> None:
    content = {**tensors("vgg19", 5, torch.float16), "classifier.0.weight": torch.zeros(2)}
    content["features.2.weight"] = content["features.2.weight"].double()
    if form == "safetensors":
        save_file({name: value.contiguous() for name, value in content.items()}, "vgg.pth")
    else:
        torch.save(content, "vgg.pth", _use_new_zipfile_serialization=form == "torch")
    found = vgg_weights.read(Path("vgg.pth"), "vgg19", ["relu1_1", "conv1_2"], CPU)
    assert {name: value.dtype for name, value in found.items()} == {
        "features.0.weight": torch.float32, "features.0.bias": torch.float32,
        "features.2.weight": torch.float64, "features.2.bias": torch.float32,
    }  # fmt: skip
    assert all(torch.equal(value, content[name].to(value.dtype)) for name, value in found.items())


@pytest.mark.parametrize("kind", [kind for kind in get_args(VGGKind) if kind != "vgg19"])
def test_weights_of_another_vgg_are_told_by_their_names(kind: VGGKind) -> None:
    torch.save(tensors(kind), "vgg.pth")
    with pytest.raises(
        InputError, match=rf"^vgg.pth: not the weights of vgg19: it holds the weights of {kind}; take .*{NAME}"
    ):
        options(vgg_weights="vgg.pth").build(CPU)


def test_files_of_something_else_are_named() -> None:
    wrong = tensors("vgg19", 2)
    cases: list[tuple[object, str]] = [
        ({"conv_first.weight": torch.zeros(3)}, "features.0.weight is missing"),
        ({"params": wrong}, "features.0.weight is missing"),
        (tensors("vgg19", 0), "features.2.weight is missing"),
        ({**wrong, "features.2.weight": torch.zeros(64, 3, 3, 3)},
         "features.2.weight is [64, 3, 3, 3] instead of [64, 64, 3, 3]"),
        ({**wrong, "features.2.bias": torch.zeros(64, dtype=torch.int64)}, "features.2.bias holds no floating-point"),
        ({**wrong, "features.2.bias": 3}, "features.2.bias holds no floating-point numbers"),
        ({**wrong, "features.3.weight": torch.zeros(64)}, "it has features.3.weight, which vgg19 has not"),
    ]  # fmt: skip
    for content, message in cases:
        torch.save(content, "vgg.pth")
        with pytest.raises(InputError, match=rf"^vgg.pth: not the weights of vgg19: {re.escape(message)}.*; take "):
            options(vgg_weights="vgg.pth").build(CPU)
    torch.save({**wrong, "features.0.bias": torch.full((64,), torch.nan)}, "vgg.pth")
    with pytest.raises(InputError, match=r"features.0.bias holds NaN or inf: the file is damaged; take"):
        options(vgg_weights="vgg.pth").build(CPU)
    Path("vgg.pth").write_text("<!DOCTYPE html><html><head><title>Log in</title></head></html>")
    with pytest.raises(InputError, match=r'vgg.pth: not a readable checkpoint: a web page \("Log in"\)'):
        options(vgg_weights="vgg.pth").build(CPU)


def test_a_damaged_file_is_found_by_its_checksums() -> None:
    torch.save({name: value.clone().fill_(0.1) for name, value in tensors("vgg19", 2).items()}, "vgg.pth")
    content = bytearray(Path("vgg.pth").read_bytes())
    place = content.index(torch.full((4,), 0.1).numpy().tobytes())
    content[place] ^= 1
    Path("vgg.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"vgg.pth: the file is damaged"):
        options(vgg_weights="vgg.pth").build(CPU)


def test_a_file_that_is_not_what_its_name_says_is_warned_of(log: list[str]) -> None:
    torch.save(tensors("vgg19", 2), NAME)
    digest = hashlib.sha256(Path(NAME).read_bytes()).hexdigest()
    options(vgg_weights=NAME).build(CPU)
    assert log == [f"{NAME}: its SHA-256 begins with {digest[:8]}, not with dcbb9e9d as its name says: it has been "
                   "changed or is damaged"]  # fmt: skip
    log.clear()
    Path(NAME).rename(f"vgg19-{digest[:8]}.pth")
    options(vgg_weights=f"vgg19-{digest[:8]}.pth").build(CPU)
    assert log == []
