"""Networks out of all proportion are refused before they are built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from archs import NETWORKS, build_network, network_class
from archs.limits import LARGEST, RATES, argument_problems, check_size
from utils.errors import InputError
from utils.typed import fields_of

ESC = {
    **{"type": "ESC", "dim": 16, "pdim": 8, "kernel_size": 5, "n_blocks": 1, "conv_blocks": 1},
    **{"window_size": 8, "num_heads": 2, "upscaling_factor": 2},
}
HAT = {
    **{"type": "HAT", "embed_dim": 12, "depths": [1], "num_heads": [2], "window_size": 4, "img_size": 8},
    **{"squeeze_factor": 4, "mlp_ratio": 2},
}


@pytest.mark.parametrize(
    ("network", "key", "value", "message"),
    [
        (ESC, "n_blocks", 10**9, "n_blocks: expected at most 1000, got 1000000000"),
        (ESC, "dim", 10**9, "dim: expected at most 8192"),
        (ESC, "window_size", 10**9, "window_size: expected at most 128"),
        (ESC, "kernel_size", 10**9, "kernel_size: expected at most 255"),
        (ESC, "upscaling_factor", 10**9, "upscaling_factor: expected at most 100"),
        (HAT, "depths", [10**9], "depths: expected at most 1000"),
        (HAT, "depths", [1000, 1000], "depths: expected at most 1000 blocks in all, got 2000"),
        (HAT, "depths", [1] * 10_000, "depths: expected at most 1000 numbers, got 10,000"),
        (HAT, "embed_dim", 10**9, "embed_dim: expected at most 8192"),
        (HAT, "img_size", 10**9, "img_size: expected at most 65536"),
        (HAT, "mlp_ratio", -1, "mlp_ratio: expected at least 0.015625, got -1"),
        (HAT, "mlp_ratio", 1e300, "mlp_ratio: expected at most 64"),
        (HAT, "drop_rate", 1.0, "drop_rate: expected a number at least 0 and below 1, got 1"),
        (HAT, "drop_path_rate", -0.1, "drop_path_rate: expected a number at least 0 and below 1"),
        (HAT, "in_chans", -1, "in_chans: expected at least 1, got -1"),
    ],
)
def test_arguments_out_of_all_proportion_are_refused(
    network: dict[str, Any], key: str, value: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_network({**network, key: value})


def test_every_size_of_a_network_has_a_bound() -> None:
    """An argument that is a number is one of those that have a bound, or must be found here."""
    for name in NETWORKS:
        for key, field in fields_of(network_class(name)).items():
            kind = str(field.annotation)
            if "int" in kind or "float" in kind:
                assert key in (*LARGEST, *RATES), f"{name}.{key} has no bound in archs/limits.py"


def test_published_networks_are_far_below_the_bounds() -> None:
    for name in NETWORKS:
        defaults = {key: field.default for key, field in fields_of(network_class(name)).items() if not field.required}
        assert list(argument_problems(defaults)) == []


def test_a_network_is_counted_before_memory_is_taken() -> None:
    with pytest.raises(InputError, match=r"network_g \(ESC\): [\d,]+ parameters take [\d,]+ bytes, too many"):
        build_network({**ESC, "dim": 8192, "pdim": 512, "n_blocks": 4})


def test_dense_blocks_are_counted_as_what_they_are() -> None:
    with pytest.raises(InputError, match=r"network_g \(RRDBNet\): [\d,]+ parameters take [\d,]+ bytes, too many"):
        build_network({"type": "RRDBNet", "num_feat": 1024, "num_grow_ch": 1024, "num_block": 8})


def test_the_memory_bounds_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archs.limits._ROUGHLY_LARGE", 0)
    monkeypatch.setattr("archs.limits.obtainable_memory", lambda: 100)
    with pytest.raises(InputError, match=r"network_g \(one\): 30 parameters take 120 bytes, too many"):
        check_size("one", lambda: nn.Linear(5, 5), {})
    monkeypatch.setattr("archs.limits.obtainable_memory", lambda: None)
    check_size("one", lambda: nn.Linear(5, 5), {})


def test_what_torch_says_about_arguments_is_a_mistake_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Negative(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(width))

    monkeypatch.setattr("archs.network_class", lambda name: Negative)
    with pytest.raises(InputError, match=r"network_g \(Any\): it cannot be built with these arguments: .*negative"):
        build_network({"type": "Any", "width": -1})
