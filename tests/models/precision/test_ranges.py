from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archs import build_network
from models.precision.compare import loss_of
from models.precision.network import in_precision
from models.precision.ranges import LIMIT, LayerRange, Ranges, ranges_of
from tests.archs.test_contract import SMALL, image
from utils.errors import InputError


@pytest.fixture(autouse=True)
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FOCALSR_OPS", "reference")
    with torch.no_grad():
        yield


class Branch(nn.Module):
    """A branch whose middle is far beyond float16, while all that enters and leaves it is small."""

    scale = 1

    def __init__(self, factor: float = 3e5) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.head = nn.Conv2d(3, 4, 3, padding=1)
            self.big = nn.Conv2d(4, 8, 1)
            self.down = nn.Conv2d(8, 4, 1)
            self.tail = nn.Conv2d(4, 3, 3, padding=1)
        # Each weight by itself is within float16.
        self.rise, self.big.weight[:], self.down.weight[:] = factor**0.5, factor**0.5 / 4, 1 / factor
        nn.init.constant_(self.head.weight, 0.03 * self.rise)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        return self.tail(y / self.rise + self.down(self.big(y)))  # type: ignore[no-any-return]


X = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(0))


def look(network: nn.Module, x: Tensor = X, **options: Any) -> Ranges:
    return ranges_of(network, lambda prepared: prepared(x), **options)


def test_exactly_the_layer_that_overflows_is_found() -> None:
    network = Branch()
    assert network(X).abs().max() < 100
    assert not in_precision(network, "fp16")(X).isfinite().all()
    found = look(network)
    assert found.keep == ("big", "down")  # what makes it, and what takes it
    assert found.reasons["big"].startswith("convolution makes ")
    assert found.reasons["down"].startswith("it is given ")
    half = in_precision(network, "fp16", found.keep)(X)
    assert half.isfinite().all()
    assert (half - network(X)).abs().max() < 2e-3 * network(X).abs().max()
    # No smaller list does.
    for less in (("big",), ("down",)):
        assert not in_precision(network, "fp16", less)(X).isfinite().all()


def test_what_it_costs_is_said() -> None:
    found = look(Branch())
    products = {"head": 27 * 4, "big": 4 * 8, "down": 8 * 4, "tail": 4 * 27}  # of a pixel
    assert found.multiplications == pytest.approx((products["big"] + products["down"]) / sum(products.values()))
    weights = {"head": 112, "big": 40, "down": 36, "tail": 111}
    assert found.weights == pytest.approx((weights["big"] + weights["down"]) / sum(weights.values()))


def test_nothing_is_kept_of_small_numbers() -> None:
    found = look(Branch(1.0))
    assert found.keep == ()
    assert found.reasons == {}
    assert (found.multiplications, found.weights) == (0, 0)


def test_the_margin_decides() -> None:
    layer = next(layer for layer in look(Branch(1.0)).layers if layer.name == "big")
    margin = LIMIT / layer.result
    assert "big" not in look(Branch(1.0), margin=0.9 * margin).reasons
    assert "big" in look(Branch(1.0), margin=1.1 * margin).reasons


def test_a_sum_between_layers_is_found_and_the_layers_stay_in_half_precision() -> None:
    class Stream(nn.Module):
        """A residual stream that grows, and blocks that see it normalised."""

        scale = 1

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(3))
            self.last = nn.GroupNorm(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return self.last(x)  # type: ignore[no-any-return]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(1, 3)
            self.conv = nn.Conv2d(3, 3, 1)
            nn.init.constant_(self.conv.weight, 4e3)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(self.norm(x) + 1)  # type: ignore[no-any-return]

    network = Stream()
    found = look(network, margin=1)
    assert not in_precision(network, "fp16")(X).isfinite().all()
    assert found.keep == ("blocks.1", "!blocks.1.conv", "blocks.2", "!blocks.2.conv")
    half = in_precision(network, "fp16", found.keep)
    assert half(X).isfinite().all()
    assert (half(X) - network(X)).abs().max() < 0.02
    assert dict(half.named_parameters())["network.blocks.0.conv.weight"].dtype is torch.float16


def test_what_happens_inside_of_attentions_and_norms_is_seen() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = build_network({"type": "HAT", **SMALL["HAT"]}).eval()
    found = {layer.name: layer for layer in look(network, image(network, (1, 8, 8))).layers}
    attention = found["layers.0.residual_group.blocks.0.attn"]
    assert attention.inside > 0
    assert attention.inside_of in ("add", "bmm", "to_copy", "softmax", "mul")
    norm = found["layers.0.residual_group.blocks.0.norm1"]
    assert norm.square == pytest.approx(norm.given**2)
    # A layer that another module uses, without calling it.
    assert found["layers.0.residual_group.blocks.0.mlp.fc1"].multiplications > 0
    assert found["layers.0.residual_group.blocks.0.mlp.fc1"].result > 0


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("HAT", "layers.0.residual_group.blocks.1.mlp.fc1"),
        ("RGT", "layers.1.blocks.0.mlp.fc1"),
        ("ESC", "blocks.1.proj.proj"),
        ("PFT", "layers.0.residual_group.layers.1.convffn.fc1"),
        ("PlainUSR_general_inference", "block1.body.0"),
        ("RRDBNet", "body.1.rdb2.conv1"),
        ("ESCLTE", "encoder.blocks.0.proj.proj"),
    ],
)
def test_layers_that_overflow_in_each_family_are_found(name: str, layer: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = build_network({"type": name, **SMALL[name]}).eval()
    weight: Any = network.get_submodule(layer).weight
    weight.mul_(3e4 / weight.abs().max())  # as large as may be, of float16
    network.get_submodule(layer).bias.fill_(2e5)
    x = image(network, (1, 16, 16))
    assert not in_precision(network, "fp16")(x).isfinite().all()
    found = look(network, x)
    half = in_precision(network, "fp16", found.keep)
    assert half(x).isfinite().all()
    assert layer in found.reasons or layer.rpartition(".")[0] in found.reasons
    assert 0 < found.multiplications < 0.9


def test_a_product_of_the_block_with_what_a_layer_gives_is_found() -> None:
    """ESC's filters are generated from the image that they filter: the result grows with its square."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = build_network({"type": "ESC", **SMALL["ESC"]}).eval()
    nn.init.constant_(network.blocks[1].pconvs[0].plk.dwc_proj[3].bias, 6e4)
    x = image(network, (1, 16, 16))
    assert not in_precision(network, "fp16")(x).isfinite().all()
    found = look(network, x)
    assert found.reasons["blocks.1"].startswith("addmm is given ")
    assert "blocks.0" not in found.reasons
    assert "!blocks.1.attn" in found.keep
    half = in_precision(network, "fp16", found.keep)(x)
    assert (half - network(x)).abs().max() < 0.01 * network(x).abs().max()


def test_networks_as_they_are_need_nothing() -> None:
    for name in ("HAT", "PFT"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build_network({"type": name, **SMALL[name]}).eval()
        assert look(network, image(network, (1, 8, 8))).keep == ()


def test_activations_that_are_not_finite_anyway_are_a_fault_of_the_weights() -> None:
    network: Any = Branch()
    network.head.bias[0] = torch.inf
    with pytest.raises(InputError, match=r"not finite .* in float32 either"):
        look(network)


def test_small_numbers_are_counted() -> None:
    network: Any = nn.Sequential(nn.Conv2d(3, 3, 1))
    network.scale = 1
    nn.init.constant_(network[0].weight, 1e-6)
    nn.init.zeros_(network[0].bias)
    [layer] = [layer for layer in look(network).layers if layer.name == "0"]
    assert isinstance(layer, LayerRange)
    assert layer.small == 1


def test_losses_are_of_8_bit_images() -> None:
    true = torch.full((3, 4, 4), 0.5)
    assert loss_of([true], [true]).psnr == math.inf
    other = true + 2 / 255
    loss = loss_of([other, other * torch.nan], [true, true], 2.0)
    assert (loss.finite, loss.levels, loss.changed, loss.seconds) == (False, 2, 1, 2)
    assert loss.psnr == pytest.approx(20 * math.log10(255 / 2))
