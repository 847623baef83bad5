from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from archs.layers.constants import PublishedConstants, constant_keys, published_state


class Part(PublishedConstants):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("hidden", torch.zeros(1), persistent=False)
        self.register_buffer("seen", torch.zeros(1))
        self.inner = nn.Linear(1, 1)

    def published_constants(self) -> Mapping[str, Tensor]:
        return {"index": torch.arange(3), "mask": torch.zeros(2)}


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(1, 1)
        self.part = Part()


def test_are_in_the_published_form_only() -> None:
    network = Whole()
    assert list(network.state_dict()) == [
        "first.weight", "first.bias", "part.weight", "part.seen", "part.inner.weight", "part.inner.bias",
    ]  # fmt: skip
    published = published_state(network)
    assert list(published) == [
        "first.weight", "first.bias", "part.weight", "part.seen", "part.index", "part.mask",
        "part.inner.weight", "part.inner.bias",
    ]  # fmt: skip
    assert constant_keys(network) == {"part.index", "part.mask"} == published.keys() - network.state_dict().keys()


@pytest.mark.parametrize("left_out", [(), ("part.mask",), ("part.index", "part.mask")])
def test_files_load_strictly_with_and_without(left_out: tuple[str, ...]) -> None:
    network = Whole()
    state = {key: tensor for key, tensor in published_state(network).items() if key not in left_out}
    before = list(state)
    network.load_state_dict(state)
    assert list(state) == before


@pytest.mark.parametrize("other", [torch.arange(3) + 1, torch.arange(4)])
@pytest.mark.parametrize("strict", [True, False])
def test_other_values_are_refused(other: Tensor, strict: bool) -> None:
    network = Whole()
    with pytest.raises(RuntimeError, match=r"part.index, \[\d\], is not what follows from the arguments"):
        network.load_state_dict({**published_state(network), "part.index": other}, strict=strict)


def test_unknown_keys_are_still_refused() -> None:
    network = Whole()
    with pytest.raises(RuntimeError, match=r"part\.index2"):
        network.load_state_dict({**network.state_dict(), "part.index2": torch.arange(3)})
