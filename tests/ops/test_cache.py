from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ops.cache import cached_constant, forget_constants

calls: list[int] = []


@cached_constant(2)
def ramp(length: int) -> Tensor:
    """0 .. length - 1."""
    calls.append(length)
    return torch.arange(length).float()


def test_is_computed_once_while_it_is_among_the_last() -> None:
    calls.clear()
    assert ramp(3) is ramp(3)
    ramp(4)
    ramp(5)
    ramp(3)
    assert calls == [3, 4, 5, 3]
    assert ramp.__doc__ == "0 .. length - 1."


def test_serves_training_after_inference_mode() -> None:
    with torch.inference_mode():
        kept = ramp(11)
    assert not kept.is_inference()
    x = torch.ones(11, requires_grad=True)
    (x * kept).sum().backward()
    assert x.grad is not None


def test_stand_ins_are_not_kept() -> None:
    with FakeTensorMode():
        assert type(ramp(7)) is not Tensor
    real = ramp(7)
    assert type(real) is Tensor
    with FakeTensorMode():
        assert ramp(7) is not real


def test_compiles() -> None:
    torch.compiler.reset()
    compiled = torch.compile(lambda x: x + ramp(x.shape[0]), fullgraph=True, backend="eager")
    x = torch.ones(6)
    assert torch.equal(compiled(x), x + ramp(6))


def test_forgotten_constants_are_computed_afresh() -> None:
    calls = []

    @cached_constant(2)
    def constant(size: int) -> Tensor:
        calls.append(size)
        return torch.zeros(size)

    constant(3), constant(3)
    forget_constants()
    constant(3)
    assert calls == [3, 3]
