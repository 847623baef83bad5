"""Derived values are kept exactly as long as what they are made from stays the same."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ops import Memo


class Doubled(nn.Module):
    """Twice its weight; counts how often that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(3.0))
        self.memo = Memo()
        self.computed = 0

    def compute(self) -> Tensor:
        self.computed += 1
        return self.weight * 2

    def forward(self) -> Tensor:
        return self.memo(self.compute, self.weight)


@torch.no_grad()
def test_computed_once_in_evaluation() -> None:
    module = Doubled()
    assert module() is module()
    assert module.computed == 1
    module.memo.clear()
    module()
    assert module.computed == 2


def test_computed_afresh_where_a_gradient_is_wanted() -> None:
    module = Doubled()
    with torch.no_grad():
        module()
    for _ in range(2):
        assert module().requires_grad
    assert module.computed == 3
    module.requires_grad_(False)
    module()
    assert module.computed == 3  # what was kept in evaluation still holds


def write_in_place(module: Doubled) -> None:
    module.weight.add_(1)


def step(module: Doubled) -> None:
    module.weight.grad = torch.ones(3)
    torch.optim.SGD([module.weight], lr=1.0).step()


def load(module: Doubled) -> None:
    module.load_state_dict({"weight": torch.full((3,), 7.0)})


def assign(module: Doubled) -> None:
    module.load_state_dict({"weight": torch.full((3,), 7.0)}, assign=True)


def replace_data(module: Doubled) -> None:
    module.weight.data = torch.full((3,), 7.0)


def average(module: Doubled) -> None:
    torch._foreach_lerp_([module.weight.detach()], [torch.ones(3)], 0.5)


def to_double(module: Doubled) -> None:
    module.double()


CHANGES = [write_in_place, step, load, assign, replace_data, average, to_double]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@torch.no_grad()
def test_any_change_is_noticed(change: Callable[[Doubled], None]) -> None:
    module = Doubled()
    module()
    change(module)
    assert torch.equal(module(), module.weight * 2)
    assert module.computed == 2


@torch.no_grad()
def test_memory_that_is_used_again_is_not_mistaken() -> None:
    module = Doubled()
    for value in range(20):
        module.weight.data = torch.full((3,), float(value))
        assert torch.equal(module(), torch.full((3,), 2.0 * value))


@torch.no_grad()
def test_copies_start_empty() -> None:
    module = Doubled()
    module()
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        twin.weight.fill_(5)
        assert torch.equal(twin(), torch.full((3,), 10.0))
        assert twin.computed == 2
    assert copy.copy(module.memo)._kept is None
    assert torch.equal(module(), torch.arange(3.0) * 2)
    assert list(module.state_dict()) == ["weight"]


def test_a_value_made_in_inference_mode_may_enter_a_graph() -> None:
    module = Doubled().requires_grad_(False)
    with torch.inference_mode():
        module()
    x = torch.ones(3, requires_grad=True)
    (x * module()).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, module())
    assert module.computed == 1


def test_sources_without_a_version_are_not_kept() -> None:
    with torch.inference_mode():
        module = Doubled()
        module()
        module()
    assert module.computed == 2


@torch.no_grad()
def test_other_sources_are_other_values() -> None:
    memo, a, b = Memo(), torch.ones(2), torch.ones(2)
    assert memo(lambda: a + b, a, b) is memo(lambda: a + b, a, b)
    assert torch.equal(memo(lambda: a * 3, a), a * 3)
    assert torch.equal(memo(lambda: b[:1], b[:1]), b[:1])
