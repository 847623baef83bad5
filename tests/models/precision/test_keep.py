from __future__ import annotations

import pytest
import torch
from torch import nn

from models.precision.keep import kept_list, types_of
from utils.errors import InputError


def network() -> nn.Module:
    inner = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    return nn.Sequential(nn.Linear(2, 2), inner)


def in_float32(keep: tuple[str, ...]) -> set[str]:
    return {name for name, dtype in types_of(network(), torch.bfloat16, keep).items() if dtype == torch.float32}


def test_nothing_is_kept_by_itself() -> None:
    assert in_float32(()) == set()


def test_a_name_stands_for_all_inside_and_the_longest_decides() -> None:
    assert in_float32(("1",)) == {"1", "1.0", "1.1", "1.1.0", "1.1.1"}
    assert in_float32(("1", "!1.1")) == {"1", "1.0"}
    assert in_float32(("!1.1", "1.1.0", "1")) == {"1", "1.0", "1.1.0"}
    assert in_float32((".", "!1")) == {"", "0"}


def test_a_name_of_no_module_is_a_mistake_with_a_suggestion() -> None:
    model = nn.Sequential()
    model.add_module("attention", nn.Linear(1, 1))
    with pytest.raises(InputError, match=r'Sequential has no module "atention" \(did you mean "attention"\?\)'):
        types_of(model, torch.float16, ["atention"])


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ({"": False, "0": True, "1": False}, ("0",)),
        ({"": True, "0": True, "1": False, "1.0": False}, (".", "!1")),
        ({"": True, "0": True, "1": True}, (".",)),
        # "1" runs nothing itself: what is inside is seen from the network
        ({"": False, "1.0": True, "1.1": False, "1.1.0": True}, ("1.0", "1.1.0")),
        ({"": False}, ()),
    ],
)
def test_the_shortest_list_says_what_each_module_is(inside: dict[str, bool], expected: tuple[str, ...]) -> None:
    assert kept_list(inside) == expected
    types = types_of(network(), torch.float16, expected)
    assert {name: types[name] == torch.float32 for name in inside} == inside
