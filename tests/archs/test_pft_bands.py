"""PFT in evaluation of large images: bands of rows, in place, give what the layers give otherwise, with less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archs import build_network
from archs.pft import PFT, attention_maps, bands
from archs.pft.bands import FocusBands, add_local, cut
from models.inference.memory import peak_of_forward
from ops.registry import ENVIRONMENT
from tests.ops.kernels import require_cpu_kernels

WHOLE = 1 << 40


def built(**changes: Any) -> PFT:
    """A small network whose layers all matter to the result."""
    options = {
        "type": "PFT", "depths": [2, 3], "num_heads": 2, "num_topk": [16, 16, 6, 6, 3], "embed_dim": 8,
        "window_size": 4, "convffn_kernel_size": 3, **changes,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(options)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.4)
    assert isinstance(network, PFT)
    return network


def pixels(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("size", [(2, 11, 14), (1, 26, 5), (1, 4, 40)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"convffn_kernel_size": 7, "resi_connection": "3conv", "patch_norm": False, "qkv_bias": False},
        {"window_size": 1, "num_topk": [1] * 5},
        {"window_size": 7, "num_topk": [49, 49, 20, 20, 5]},
    ],
    ids=["small", "wide kernels", "windows of one", "odd windows"],
)
def test_bands_change_nothing(
    changes: dict[str, Any], size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = built(**changes).double()
    x = pixels(size[0], 3, *size[1:])
    before = x.clone()
    with torch.no_grad():
        monkeypatch.setattr(bands, "BAND_PIXELS", WHOLE)
        expected = network(x)
        for count in (1, 64):
            monkeypatch.setattr(bands, "BAND_PIXELS", count)
            assert torch.allclose(network(x), expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
    assert torch.equal(x, before)
    # Where a gradient is wanted nothing is overwritten.
    network(x.requires_grad_()).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("environment", ["auto", "reference"])
def test_maps_are_read_before_states_are_used_up(environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, environment)
    network, x = built().double(), pixels(2, 3, 18, 11)
    found = []
    for count in (64, WHOLE):
        monkeypatch.setattr(bands, "BAND_PIXELS", count)
        found.append(attention_maps(network, x, range(5), [(17, 10), (0, 0), (9, 1)], image=1))
    for ours, expected in zip(*found, strict=True):
        assert ours[:2] == expected[:2]
        assert torch.equal(ours.rows, expected.rows)
        assert torch.equal(ours.columns, expected.columns)
        assert torch.allclose(ours.weights, expected.weights, atol=1e-12)


def test_states_are_handed_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_PIXELS", 64)
    network, states = built(), FocusBands()
    with torch.no_grad():
        x = pixels(2, 12, 16, 8, dtype=torch.float32)
        y, after = network.focused_layers()[2](x, states)
    assert y is x
    assert after is states
    state, window = states.find(21)  # of 24; a band is a row of four
    assert window == 1
    assert states.take(20) is state
    assert states.take(20) is None


def test_cuts_are_whole_units_of_equal_height(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_PIXELS", 100)
    assert cut(35, 10) == [(0, 8), (8, 17), (17, 26), (26, 35)]
    assert cut(28, 10, 7) == [(0, 7), (7, 14), (14, 21), (21, 28)]
    assert cut(8, 10, 4) == [(0, 8)]
    assert cut(6, 1000) == [(i, i + 1) for i in range(6)]
    assert cut(6, 1000, least=4) == [(0, 3), (3, 6)]


def test_local_functions_see_beyond_their_band(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_PIXELS", 1)
    conv = nn.Conv2d(3, 3, 5, padding=2).double()
    x = pixels(2, 19, 6, 3)

    def function(x: Tensor) -> Tensor:
        return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]

    with torch.no_grad():
        expected, found = x + function(x), x.clone()
        add_local(found, function, found, 2)
    assert torch.allclose(found, expected, atol=1e-13)


@pytest.mark.build
def test_memory_is_that_of_the_states(monkeypatch: pytest.MonkeyPatch) -> None:
    require_cpu_kernels("focus_select")
    require_cpu_kernels("focus_sparse")
    network = built(embed_dim=16, window_size=8, num_topk=[48, 48, 47, 47, 46], upsampler="pixelshuffledirect")
    x = pixels(1, 3, 128, 32, dtype=torch.float32)
    features, state = 4 * 16, 2 * (48 * (4 + 2) + 4)  # bytes for each pixel
    # Both chains, and four times the features; of a sixteenth of the image what a layer makes on the way.
    bound = 128 * 32 * (2 * state + 4 * features + (state + 12 * features) / 16)
    monkeypatch.setattr(bands, "BAND_PIXELS", 8 * 32)
    assert peak_of_forward(network, x) < bound
    monkeypatch.setattr(bands, "BAND_PIXELS", WHOLE)
    assert peak_of_forward(network, x) > 1.15 * bound
