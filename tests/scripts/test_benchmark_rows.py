"""The benchmark has a row for everything that is published, and for every operator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch

import ops
from archs import NETWORKS
from config import read
from config.variants import OPTIONS, configuration
from scripts.benchmarks import networks, operators, published
from scripts.benchmarks.measure import Comparison

OPERATORS = {
    "window_attention": "attention_*",
    "focused_attention": "focus_*",
    "smm_qmk": "smm_qmk_*",
    "smm_amv": "smm_amv_*",
    "gelu_depthwise": "gelu_depthwise_*",
    "depthwise_conv2d": "depthwise_*",
    "linear": "linear*",
}
"""Name of an operator -> its rows."""
ELSEWHERE = {
    "resample",  # measured with the images, in the group data
    "conv3x3", "pointwise_soft_pool", "importance_gate_",  # measured with PlainUSR, in the group networks
    "linear_rows", "depthwise_gelu",  # with PFT
    "image_attention",  # with HAT and RGT
}  # fmt: skip


def text(network: Mapping[str, object]) -> str:
    """A configuration as something to compare."""
    return json.dumps(network, sort_keys=True, default=list)


def function(network: Mapping[str, object]) -> str:
    """What of a configuration is seen in evaluation."""
    return text({key: value for key, value in network.items() if key not in ("img_size", "use_checkpoint")})


def rows(comparisons: list[Comparison]) -> dict[str, Comparison]:
    """By key."""
    return {row.key: row for row in comparisons}


def forward_rows(known: Mapping[str, Comparison]) -> set[str]:
    """Configurations that have rows of evaluation, which exist."""
    found = set()
    for name, scale, *_ in published.forwards():
        assert f"networks/{name}_x{scale:g}_320x180_float32" in known
        found.add(function(at_any_scale(configuration(name, scale))))
    return found


def network_of(options: Any) -> dict[str, object]:
    """``network_g`` of options."""
    return at_any_scale({"type": options.network_g.type, **options.network_g.arguments})


def at_any_scale(network: Mapping[str, object]) -> dict[str, object]:
    """Without the scale of a network for any: files need not name one."""
    return {key: value for key, value in network.items() if (network["type"], key) != ("ESCLTE", "upscaling_factor")}


def test_every_network_of_the_option_files_has_a_row() -> None:
    known = rows(published.comparisons())
    forwards = forward_rows(known)
    files = sorted(OPTIONS.glob("test_*.yml"))
    assert len(files) > 40
    lacking = [file.name for file in files if function(network_of(read(file, mode="test"))) not in forwards]
    assert not lacking
    trained = {
        (text(published.trained_configuration(name, scale)), *published.training_sizes(name, scale)): name
        for name, scale in published.steps()
    }
    assert all(
        f"train/{name}_x{scale}_published_{mode}" in known
        for name, scale in published.steps()
        for mode in published.MODES
    )
    for file in sorted(OPTIONS.glob("train_*.yml")):
        options = read(file, mode="train")
        network, data = network_of(options), options.train_dataset
        if options.scale in published.SCALES:
            sizes = (data.batch_size_per_gpu, getattr(data, "gt_size", 0) // options.scale)
            assert (text(network), *sizes) in trained, file.name
        else:  # forward alone; PlainUSR is folded for it
            folded = f"{network['type']}_inference"
            assert function({**network, "type": folded} if folded in NETWORKS else network) in forwards, file.name


def test_every_kind_of_network_has_a_row() -> None:
    types = {configuration(name, scale)["type"] for name, scale, *_ in published.forwards()}
    types |= {published.trained_configuration(name, scale)["type"] for name, scale in published.steps()}
    assert types == set(NETWORKS)
    known = rows(networks.comparisons())
    assert "train/plainusr_U" in known


def test_every_operator_has_rows_in_both_directions_with_a_share_of_the_limit() -> None:
    assert {operator.name for operator in ops.OPERATORS} - ELSEWHERE == set(OPERATORS)
    known = rows(operators.comparisons())
    assert all(row.cost is not None for row in known.values())
    names = [key.removeprefix("ops/") for key in known]
    for pattern in OPERATORS.values():
        mine = [name for name in names if fnmatchcase(name, pattern)]
        for direction in ("forward", "backward"):
            for ending in ("", "_bf16"):
                of_kind = [name for name in mine if name.endswith(f"_{direction}{ending}")]
                assert any("_720p_" in name for name in of_kind)
                assert any("_720p_" not in name and "_quick_" not in name for name in of_kind)
        assert any(known[f"ops/{name}"].quick for name in mine)


def test_costs_count_products_and_bytes() -> None:
    attention = operators.Attention(windows=2, heads=3, queries=4, keys=5, width=6)
    forward, backward, both = (
        operators.attention_cost(attention, direction, torch.float32) for direction in ("forward", "backward", "both")
    )
    assert (forward.flops, backward.flops) == (2 * 2 * 2 * 3 * 4 * 5 * 6, 4 * 2 * 2 * 3 * 4 * 5 * 6)
    assert (both.flops, both.moved) == (forward.flops + backward.flops, forward.moved + backward.moved)
    linear = operators.Linear(rows=10, inputs=3, outputs=5, gelu=False)
    assert operators.linear_cost(linear, "forward", torch.bfloat16).moved == 2 * (30 + 50 + 15)
    assert operators.linear_cost(linear, "backward", torch.bfloat16).flops == 4 * 10 * 3 * 5
    depthwise = operators.Depthwise(images=1, height=4, width=5, channels=6, side=3)
    assert operators.depthwise_cost(depthwise, "backward", torch.float32).flops == 2 * 2 * 120 * 9
