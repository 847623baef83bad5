"""What ATD keeps to beyond the contract of all networks; its recorded runs are in test_golden.py too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from archs import build_network, identify
from archs.atd import ATD
from archs.atd.blocks import CategoryAttention, _sorted
from archs.layers.constants import constant_keys, published_state
from config.variants import configuration
from utils.errors import InputError

SMALL: dict[str, Any] = {
    "type": "ATD", "depths": [2, 3], "num_heads": [2, 3], "embed_dim": 12, "window_size": 4, "category_size": 8,
    "num_tokens": 5, "convffn_kernel_size": 3,
}  # fmt: skip


def built(**changes: Any) -> ATD:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network({**SMALL, **changes})
    assert isinstance(network, ATD)
    return network


def pixels(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def test_pixels_of_a_category_keep_their_order() -> None:
    category = torch.tensor([[2, 0, 2, 1, 0], [1, 1, 0, 1, 0]])
    order, back = _sorted(category)
    assert order.tolist() == [1, 4, 3, 0, 2, 7, 9, 5, 6, 8]
    assert order[back].tolist() == list(range(10))


@pytest.mark.parametrize(("n", "multiple", "members"), [(16, 16, 8), (20, 4, 8), (5, 1, 5)])
def test_groups_are_of_similar_pixels_and_the_last_is_filled_by_those_before_it(
    n: int, multiple: int, members: int
) -> None:
    attention = CategoryAttention(6, 2, 8, bias=True).double()
    qkv = torch.randn(2, n, 18, generator=torch.Generator().manual_seed(2)).double()
    category = torch.randint(3, (2, n), generator=torch.Generator().manual_seed(3))
    found = attention(qkv, category, multiple)
    factor = attention.logit_scale.exp()
    for b in range(2):
        order = sorted(range(n), key=lambda pixel: (int(category[b, pixel]), pixel))
        pad = -n % members
        extended = order + order[n - pad :]
        for start in range(0, len(extended), members):
            group = extended[start : start + members]
            q, k, v = qkv[b, group].view(members, 3, 2, 3).permute(1, 2, 0, 3)
            out = ((q @ k.transpose(1, 2)) * factor).softmax(-1) @ v  # [h, g, d]
            for place, pixel in enumerate(group):
                if start + place < n:
                    torch.testing.assert_close(found[b, pixel], out[:, place].flatten())


def test_published_files_hold_a_table_and_new_ones_do_not() -> None:
    network = built()
    published = published_state(network)
    assert constant_keys(network) == {"relative_position_index_SA"}
    assert next(iter(published)) == "relative_position_index_SA"
    built().load_state_dict(published, strict=True)


def test_identify_knows_the_published_ones() -> None:
    for name in ("atd", "atd_light"):
        for scale in (2, 3, 4):
            described = configuration(name, scale)
            with torch.device("meta"):
                state = build_network(described).state_dict()
            found = identify(state)
            assert found is not None
            for key, value in described.items():
                expected = list(value) if isinstance(value, tuple) else value
                assert found.get(key, expected) == expected, key
    assert identify(built().state_dict()) is None


def test_the_dictionary_learns_in_all_layers_but_the_last_of_a_group() -> None:
    keys = built().state_dict()
    assert [key for key in keys if key.endswith("sigma")] == [
        f"layers.{group}.residual_group.layers.{layer}.sigma" for group, layer in ((0, 0), (1, 0), (1, 1))
    ]


def test_checkpointing_changes_no_gradient() -> None:
    x = pixels(1, 3, 8, 8)
    gradients = []
    for use_checkpoint in (False, True):
        network = built(use_checkpoint=use_checkpoint)
        network(x).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("category_size", [8, 16, 20, 64, 65])
def test_graphs_are_for_images_that_fill_a_group(category_size: int) -> None:
    network = built(category_size=category_size)
    least, most = network.graph_sizes
    assert most is None
    sides = [side for side in range(1, 40) if (-(-side // 4) * 4) ** 2 >= category_size]
    assert least == sides[0]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"upsampler": ""}, ["upscale is 2", "must be 1"]),
        ({"category_size": 0, "num_tokens": 0}, ["category_size must be at least 1", "num_tokens must be at least 1"]),
        ({"convffn_kernel_size": 4}, ["odd number, got 4"]),
        ({"num_heads": 5}, ["5 heads cannot share embed_dim 12"]),
        ({"num_heads": [2]}, ["depths and num_heads"]),
        ({"mlp_ratio": 0.05}, ["leaves no hidden channel"]),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        built(**changes)
    for part in parts:
        assert part in str(caught.value)


def test_one_number_of_heads_is_that_of_all_groups() -> None:
    assert built(num_heads=3).state_dict().keys() == built(num_heads=[3, 3]).state_dict().keys()
