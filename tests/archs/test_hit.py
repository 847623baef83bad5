"""What the HiT-SR networks keep to beyond the contract of all networks; recorded runs are in test_golden.py too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from archs import build_network, identify
from archs.hit import SpatialChannelCorrelation
from archs.layers.constants import constant_keys, published_state
from config.variants import configuration
from utils.errors import InputError

SMALL: dict[str, Any] = {
    "type": "HiT_SRF", "depths": [3, 2], "num_heads": [2, 3], "embed_dim": 36, "base_win_size": [4, 4],
    "hier_win_ratios": [0.5, 1, 2],
}  # fmt: skip


def built(**changes: Any) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network({**SMALL, **changes})


def pixels(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("window", [(2, 3), (4, 6), (8, 12)])
def test_correlations_are_the_formulas(window: tuple[int, int]) -> None:
    """Pair by pair, as the paper writes them."""
    torch.manual_seed(2)
    C, n, base = 36, 3, (4, 6)
    layer = SpatialChannelCorrelation(C, window, base, n).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    (h, w), (bh, bw) = window, (min(window[0], base[0]), min(window[1], base[1]))
    cy, cx, d = h // bh, w // bw, C // (2 * n)
    windows = torch.randn(2, h * w, C).double()
    q, v = windows.split(C // 2, -1)
    g, g0 = layer.spatial_linear.weight[0].view(cy, cx), layer.spatial_linear.bias
    table = layer.pos().view(2 * h - 1, 2 * w - 1, n)
    image = v.view(2, h, w, C // 2)
    expected = torch.zeros(2, h * w, C).double()
    pooled = torch.zeros(2, bh * bw, C // 2).double()
    bias = torch.zeros(n, h * w, bh * bw).double()
    for i in range(bh):
        for j in range(bw):
            cell = image[:, i * cy : (i + 1) * cy, j * cx : (j + 1) * cx]
            pooled[:, i * bw + j] = g0 + (cell * g[..., None]).sum((1, 2))
            for y in range(h):
                for x in range(w):
                    rows = slice(y - (i + 1) * cy + h, y - i * cy + h)
                    columns = slice(x - (j + 1) * cx + w, x - j * cx + w)
                    bias[:, y * w + x, i * bw + j] = table[rows, columns].mean((0, 1))
    for head in range(n):
        part = slice(head * d, (head + 1) * d)
        weights = q[..., part] @ pooled[..., part].transpose(1, 2) / d + bias[head]
        expected[..., part] = weights @ pooled[..., part]
    expected[..., C // 2 :] = v @ (q.transpose(1, 2) @ v / (h * w)).transpose(1, 2)
    torch.testing.assert_close(layer.bias(), bias)
    torch.testing.assert_close(layer._correlated(windows), expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (17, 2)])
@pytest.mark.parametrize("kind", ["SRF", "SIR", "SNG"])
def test_small_and_elongated_images(kind: str, size: tuple[int, int]) -> None:
    y = built(type=f"HiT_{kind}", upscale=2)(pixels(1, 3, *size))
    assert y.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert y.isfinite().all()


def test_only_the_context_of_neighbours_has_a_published_table() -> None:
    assert constant_keys(built()) == set()
    network = built(type="HiT_SNG", depths=[1], num_heads=[2])
    table = "layers.0.residual_group.blocks.0.correlation.ngram_window_partition.ngram_context.ngram_attn."
    assert constant_keys(network) == {table + "relative_position_index"}
    built(type="HiT_SNG", depths=[1], num_heads=[2]).load_state_dict(published_state(network), strict=True)


@pytest.mark.parametrize("kind", ["srf", "sir", "sng"])
def test_identify_knows_the_published_ones(kind: str) -> None:
    described = configuration(f"hit_{kind}", 3)
    with torch.device("meta"):
        state = build_network(described).state_dict()
    found = identify(state)
    assert found is not None
    for key, value in described.items():
        expected = list(value) if isinstance(value, tuple) else value
        assert found.get(key, expected) == expected, key
    assert identify(built(type=described["type"], hier_win_ratios=[1, 2, 3]).state_dict()) is None


def test_the_bias_of_evaluation_is_kept_until_its_network_changes() -> None:
    layer = built().get_submodule("layers.0.residual_group.blocks.2.correlation")
    assert isinstance(layer, SpatialChannelCorrelation)
    with torch.no_grad():
        first = layer.bias()
        assert layer.bias() is first
        layer.pos.pos_proj.bias.add_(1)
        assert not torch.equal(layer.bias(), first)


def test_dropout_acts_in_training_alone() -> None:
    network = built(drop_rate=0.3, value_drop_rate=0.2)
    x = pixels(1, 3, 8, 8)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"embed_dim": 34}, ["2 heads cannot share half of embed_dim 34", "3 heads"]),
        ({"embed_dim": 12}, ["embed_dim must be at least 16"]),
        ({"depths": [4, 2]}, ["depths from 1 to 3"]),
        ({"base_win_size": [4]}, ["base_win_size must be two numbers"]),
        ({"hier_win_ratios": [0.1, 1.5, 2]}, ["0.1 makes windows of 0 x 0", "1.5 makes windows of 6 x 6"]),
        ({"type": "HiT_SNG", "base_win_size": [4, 6]}, ["windows must be squares"]),
        ({"upsampler": ""}, ["upscale is 4"]),
        ({"expansion_factor": 2}, ["expansion_factor"]),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        built(**changes)
    for part in parts:
        assert part in str(caught.value)
