"""Outputs of modules as maps of the image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from analysis.features import each_map, maps, names_of
from archs import build_network
from archs.contract import part_names
from archs.layers.size import SizeRule
from archs.pft import bands
from models import upscale
from tests.archs.test_contract import SMALL
from tests.golden import Case
from utils.errors import InputError


class Turned(nn.Module):
    """Gives features on in another layout."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Any:
        if self.layout == "first":
            return x
        if self.layout == "tuple":
            return x, "state"
        return x.permute(0, 2, 3, 1).contiguous() if self.layout == "last" else x.flatten(2).transpose(1, 2)


class Elsewhere(nn.Module):
    """A network of another program, whose features are the image, 8 times as channels."""

    def __init__(self, multiple: int = 1) -> None:
        super().__init__()
        self.scale = 2
        self.size_rule = SizeRule(multiple=multiple)
        self.body = nn.ModuleList(Turned(layout) for layout in ("first", "last", "tokens", "tuple"))
        self.windows = nn.Flatten(0, 1)
        self.unused: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features = x.mean(1, keepdim=True) * torch.arange(1.0, 9.0)[:, None, None]
        for layer in self.body:
            layer(features)
        self.windows(features)
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize(("size", "multiple"), [((8, 8), 1), ((16, 16), 1), ((8, 64), 1), ((5, 7), 1), ((6, 5), 8)])
def test_every_layout_is_a_map_cropped_of_padding(size: tuple[int, int], multiple: int) -> None:
    # Sides of 8, as many as there are channels: the shape alone does not tell.
    network, x = Elsewhere(multiple), torch.rand(2, 3, *size)
    expected = x.mean(1, keepdim=True) * torch.arange(1.0, 9.0)[:, None, None]
    found = maps(network, x, names_of(network, ["blocks"]))
    assert list(found) == ["body.0", "body.1", "body.2", "body.3"]
    for features in found.values():
        assert torch.equal(features, expected)


def test_what_is_no_map_and_what_does_not_run_is_refused_in_a_sentence() -> None:
    network, x = Elsewhere(), torch.rand(2, 3, 9, 10)
    with pytest.raises(InputError, match=r"windows makes a tensor \[16, 9, 10\], which is no map of 2 images"):
        maps(network, x, ["windows"])
    with pytest.raises(InputError, match="unused is not called as a module in a pass"):
        maps(network, x, ["body.0", "unused"])
    with pytest.raises(InputError, match=r'has no module body\.0\.cnv \(did you mean "body\.0\.conv"\?\)'):
        names_of(network, ["body.0.cnv"])
    with pytest.raises(InputError, match=r"has no module xyz; its blocks are body\.0, body\.1"):
        names_of(network, ["xyz"])
    assert not any(module._forward_hooks for module in network.modules())
    network.unused = network.body[0]
    network.forward = lambda x: (network.body[0](x), network.body[0](x))[0]  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"body\.0 runs several times"):
        maps(network, x, ["body.0"])


def test_features_that_are_not_finite_are_refused() -> None:
    network = build_network({"type": "MSRResNet", **SMALL["MSRResNet"]}).eval().requires_grad_(False)
    cast("Any", network).body[1].conv1.weight.fill_(torch.nan)
    assert "body.0" in maps(network, torch.rand(1, 3, 8, 9), ["body.0"])
    with pytest.raises(InputError, match=r"what body\.1 makes is not finite .* the training .* had diverged"):
        maps(network, torch.rand(1, 3, 8, 9), ["body.0", "body.1"])


def test_names_come_in_depth_order_and_patterns_stand_for_a_part_of_a_name() -> None:
    network = build_network({"type": "RGT", **SMALL["RGT"]})
    assert names_of(network, ["norm", "layers.*.conv", "groups"]) == [
        "layers.0", "layers.0.conv", "layers.1", "layers.1.conv", "norm"
    ]  # fmt: skip
    assert len(names_of(network, ["layers.*.blocks.0"])) == 2
    assert names_of(network, ["layers"]) == list(part_names(network).blocks)  # it does not say which mix pixels


@pytest.mark.parametrize("name", SMALL)
def test_blocks_of_every_network_are_maps(name: str) -> None:
    torch.manual_seed(0)
    network = build_network({"type": name, **SMALL[name]}).eval().requires_grad_(False)
    x = torch.rand(2, 3, 17, 19)
    before = upscale(network, x)
    chosen = names_of(network, ["groups", "blocks", "layers"])
    found = maps(network, x, chosen)
    assert set(part_names(network).blocks) <= set(found)
    unshuffled = 2 if name == "RRDBNet" else cast("Any", network).factor if name == "ESCRealM" else 1
    sizes = {(len(features), *features.shape[2:]) for features in found.values()}
    assert sizes == {(2, -(-17 // unshuffled), -(-19 // unshuffled))}
    assert torch.equal(upscale(network, x), before)  # nothing stays switched


@pytest.mark.parametrize("name", ["HAT", "RGT", "PFT"])
def test_a_group_adds_the_output_of_its_convolution(name: str) -> None:
    """So the map of a group that is not called as a module is its result, and not that of its last block."""
    torch.manual_seed(0)
    network = build_network({"type": name, **SMALL[name]}).eval().double()
    x = torch.rand(1, 3, 17, 19, dtype=torch.float64)
    found = maps(network, x, ["layers.0", "layers.1", "layers.1.conv"])
    assert torch.allclose(found["layers.1"] - found["layers.0"], found["layers.1.conv"], atol=1e-10)


def test_features_that_are_overwritten_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = build_network({"type": "PFT", **SMALL["PFT"]}).eval().double()
    x = torch.rand(1, 3, 17, 19, dtype=torch.float64)
    chosen = names_of(network, ["groups", "blocks"])
    expected = maps(network, x, chosen)
    monkeypatch.setattr(bands, "BAND_PIXELS", 64)
    for name, features in maps(network, x, chosen).items():
        assert torch.allclose(features, expected[name], atol=1e-12), name


def test_maps_carry_gradients_where_the_image_wants_one() -> None:
    network = build_network({"type": "MSRResNet", **SMALL["MSRResNet"]}).eval().requires_grad_(False)
    x = torch.rand(1, 3, 8, 9, requires_grad=True)
    found = maps(network, x, ["body.0"])["body.0"]
    [gradient] = torch.autograd.grad(found.sum(), x)
    assert gradient.abs().sum() > 0
    assert not maps(network, x.detach(), ["body.0"])["body.0"].requires_grad


@pytest.mark.shared
def test_layers_of_esc_are_the_recorded_ones(shared: Path) -> None:
    """Its convolutional attentions too, whose work their block does itself otherwise."""
    recorded, built = (
        Case(path, json.loads(path.read_text()))
        for path in (shared / "golden" / "analysis" / f"{name}.json" for name in ("similarity_esc", "attention_esc"))
    )
    network = built.network().eval()
    chosen = names_of(network, ["layers"])
    assert chosen == recorded.info["modules"]
    for name, features in maps(network, built.x, chosen).items():
        expected = recorded.arrays[f"feature_{name.replace('.', '_')}"]
        assert torch.allclose(features[0], expected, atol=1e-5), name


def test_the_block_does_its_work_itself_again_after_an_error() -> None:
    network = build_network({"type": "ESC", **SMALL["ESC"]}).eval().requires_grad_(False)
    attention = cast("Any", network).blocks[0].pconvs[0]

    def fail(name: str, features: Tensor) -> None:
        assert not attention.fused
        raise RuntimeError(name)

    with pytest.raises(RuntimeError, match=r"blocks\.0\.pconvs\.0"):
        each_map(network, torch.rand(1, 3, 9, 10), ["blocks.0.pconvs.0"], fail)
    assert attention.fused
    assert not attention._forward_hooks
