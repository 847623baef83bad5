from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs import NETWORKS, build_network
from archs.contract import at_scale, contract_of
from config.values import Precision
from models.export.program import quiet
from models.inference.upscale import upscale
from models.precision.network import TYPES, in_precision
from tests.archs.test_contract import SMALL, SMALLER, image
from utils.errors import InputError

HALVES: tuple[Precision, ...] = ("bf16", "fp16")
# A block of each family that is called as a module, and something inside of it that is too.
KEPT = {
    "HAT": ("layers.0.residual_group.blocks.1", "!layers.0.residual_group.blocks.1.attn"),
    "RGT": ("layers.0.blocks.1", "!layers.0.blocks.1.mlp"),
    "ESC": ("blocks.1", "!blocks.1.attn"),
    "ESCLTE": ("encoder.blocks.1", "!encoder.blocks.1.attn"),
    "PFT": ("layers.0",),
    "PlainUSR_general": ("block1", "tail"),
    "RRDBNet": ("body.0", "!body.0.rdb2"),
    "MSRResNet": ("body.0",),
}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def small(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = SMALL if name.startswith("ESC") else SMALLER  # a second block of ESC is in KEPT
        network = build_network({"type": name, **sizes[name]}).eval()
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.05)
        return network


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_computes_in_half_precision(name: str, precision: Precision) -> None:
    network = small(name)
    x = image(network)
    expected = network(x)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    half = in_precision(network, precision)
    y = half(x)
    assert y.dtype is torch.float32
    error = 64 * torch.finfo(TYPES[precision]).eps * expected.abs().max() / 16
    assert 0 < (y - expected).abs().max() < error
    assert sum(p.numel() for p in half.parameters() if p.dtype is TYPES[precision]) > 0
    # The network is as it was, and shares nothing that is converted.
    assert torch.equal(network(x), expected)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_it_says_what_the_network_says(name: str) -> None:
    network: Any = small(name)
    half: Any = in_precision(network, "bf16")
    offered: Any = contract_of(half)
    assert offered is half  # and no view that completes it
    for said in ("scale", "channels", "size_rule", "receptive_radius", "window_size"):
        assert getattr(half, said) == getattr(network, said)
    assert half.for_inference() is half
    assert half.adapt_state({"x": torch.ones(1)}).keys() == {"x"}


def test_float32_is_the_network_itself() -> None:
    network = small("RRDBNet")
    assert in_precision(network, "fp32") is network


@pytest.mark.parametrize("name", KEPT)
def test_named_modules_stay_in_float32(name: str) -> None:
    network = small(name)
    x = image(network)
    expected = network(x)
    half: Any = in_precision(network, "bf16", KEPT[name])
    states = dict(half.network.named_modules())
    for rule in KEPT[name]:
        module = states[rule.removeprefix("!")]
        own = {p.dtype for key, p in module.named_parameters() if "norm" not in key and ".ln" not in key}
        assert (torch.bfloat16 in own) if rule.startswith("!") else (torch.float32 in own)
    y = half(x)
    assert y.dtype is torch.float32
    assert (y - expected).abs().max() < 0.04 * expected.abs().max()


@pytest.mark.parametrize("name", ["HAT", "RGT", "ESC", "ESCFP", "PFT", "RRDBNet", "PlainUSR_general_inference"])
def test_any_module_can_be_kept_or_taken_back(name: str) -> None:
    """What the two types meet in, between the modules, takes both."""
    network = small(name)
    called: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, args, key=key: called.append(key))
        for key, module in network.named_modules()
        if key
    ]
    x = image(network, (1, 8, 8))
    expected = network(x)
    for hook in hooks:
        hook.remove()
    modules = list(dict.fromkeys(called))
    assert len(modules) > 20
    for number, key in enumerate(modules[::5]):
        y = in_precision(network, "bf16", [key] if number % 2 else [".", f"!{key}"])(x)
        assert (y - expected).abs().max() < 0.05 * expected.abs().max(), key


@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_network_can_be_kept(name: str) -> None:
    network = small(name)
    x = image(network)
    assert torch.allclose(in_precision(network, "fp16", ["."])(x), network(x), atol=1e-5)


def test_norms_compute_in_float32() -> None:
    """Squares of 300 are more than float16 holds."""

    class Handmade(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()

    class HandmadeNorm(Handmade):
        pass

    x = 300 * torch.ones(1, 4, 2, 2)
    assert not in_precision(nn.Sequential(Handmade()), "fp16")(x).max() > 0
    assert torch.allclose(in_precision(nn.Sequential(HandmadeNorm()), "fp16")(x), torch.ones_like(x))
    torch.manual_seed(0)  # two channels that are almost the same would come out of their norm as anything
    layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)).eval()
    half = in_precision(layers, "fp16")
    assert {p.dtype for key, p in half.named_parameters() if not key.startswith("network.0")} == {torch.float32}
    assert torch.allclose(half(x / 300), layers(x / 300), atol=5e-3)


def test_a_network_from_elsewhere_that_says_little() -> None:
    class Other(nn.Module):
        scale = 2
        mean: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 12, 3, padding=1)
            self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.4))
            self.register_buffer("order", torch.arange(3))

        def forward(self, x: Tensor) -> Tensor:
            return F.pixel_shuffle(self.conv(x - self.mean), 2)

    network = Other().eval()
    half: Any = in_precision(network, "bf16")
    assert half.scale == 2
    assert half.network.order.dtype is torch.int64
    x = torch.rand(3, 9, 7)
    result = upscale(half, x)
    assert result.dtype is torch.float32
    assert (result - upscale(network, x)).abs().max() < 0.02


def test_a_network_for_any_scale_keeps_its_queries() -> None:
    network = small("ESCLTE")
    half: Any = in_precision(network, "bf16")
    other: Any = at_scale(half, 2.5)
    assert (half.scale, other.scale) == (2, 2.5)
    x = image(network, (1, 8, 10))
    expected: Any = at_scale(network, 2.5)
    assert (other(x) - expected(x)).abs().max() < 0.05
    queries: Any = (torch.tensor([[[0.1, -0.2], [0.5, 0.9]]]), torch.tensor([[0.1, 0.1]]))
    points = half(x, queries=queries)
    assert points.dtype is torch.float32
    assert (points - network(x, queries=queries)).abs().max() < 0.05


def test_a_trained_form_is_folded_first() -> None:
    network = small("PlainUSR_ultra")
    half: Any = in_precision(network, "fp16")
    assert type(half.network) is type(network.for_inference())


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(InputError, match="PixelShuffle has no weights that could be converted to float16; a program"):
        in_precision(nn.PixelShuffle(2), "fp16")


def test_a_name_of_no_module_is_a_mistake() -> None:
    with pytest.raises(InputError, match=r'layers in float32: RRDBNet has no module "bodi\.0"'):
        in_precision(small("RRDBNet"), "fp16", ["bodi.0"])


@pytest.mark.parametrize("name", ["HAT", "ESC", "RRDBNet"])
def test_it_is_exported_as_a_program(name: str) -> None:
    network = small(name)
    x = image(network, (1, 8, 8))
    half = in_precision(network, "bf16", KEPT[name])
    with quiet():
        program = torch.export.export(half, (x,))
    y = program.module()(x)
    assert y.dtype is torch.float32
    assert (y - half(x)).abs().max() < 0.02
    softmaxes = [node for node in program.graph.nodes if node.target is torch.ops.aten.softmax.int]
    assert all(node.args[0].meta["val"].dtype is torch.float32 for node in softmaxes)
    assert bool(softmaxes) == (name != "RRDBNet")
    norms = [node for node in program.graph.nodes if "layer_norm" in str(node.target)]
    assert all(node.args[0].meta["val"].dtype is torch.float32 for node in norms)
