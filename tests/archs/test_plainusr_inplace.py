"""PlainUSR evaluated in one map: the same function as its forward, where nothing stands against it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from archs.plainusr import PlainUSR, PlainUSRGeneral, PlainUSRLarge, PlainUSRUltra, fold, inplace
from models.precision.network import in_precision
from tests.archs.test_plainusr import picture, scattered
from tests.ops.kernels import require_cpu_kernels

NETWORKS = [
    lambda: PlainUSRUltra(16, (10, 8), 4, 4),
    lambda: PlainUSRGeneral(12, (12, 8, 6), 3, 2),
    lambda: PlainUSRLarge(18, (16, 9, 9), 5, 3),
]


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    require_cpu_kernels("conv3x3")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The images that were evaluated in place."""
    seen: list[Tensor] = []
    evaluate = inplace.evaluate

    def spy(x: Tensor, *arguments: Any) -> Tensor:
        seen.append(x)
        return evaluate(x, *arguments)

    monkeypatch.setattr("archs.plainusr.network.evaluate", spy)
    return seen


def folded(make: Any) -> PlainUSR:
    """With weights for results of order 1, so that errors are those of the arithmetic."""
    network = fold(scattered(make())).float()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)
    return network


@pytest.mark.build
@pytest.mark.parametrize("make", NETWORKS)
def test_in_place_is_the_same_function(make: Any, calls: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    network = folded(make)
    for x in (picture(19, 22).float(), picture(7, 40, 1).float().contiguous(memory_format=torch.channels_last)):
        with torch.no_grad():
            found = network(x)
            singly = torch.cat([network(one) for one in x.split(1)])
            with monkeypatch.context() as context:
                context.setenv("FOCALSR_OPS", "reference")
                expected, exact = network(x), fold_double(network)(x.double())
        tolerance = 4 * (expected - exact).abs().max() + 1e-6 * exact.abs().max()
        assert (found - exact).abs().max() <= tolerance
        assert (singly - exact).abs().max() <= tolerance
    assert len(calls) == 2 + 2 + 1


def fold_double(network: PlainUSR) -> PlainUSR:
    twin = type(network)(network.n_feat, network.im_feat, network.attn_feat, network.scale).double()
    twin.load_state_dict(network.state_dict())
    return twin


@pytest.mark.build
@pytest.mark.parametrize("make", NETWORKS)
def test_bfloat16_is_no_worse_than_in_forward(make: Any, calls: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    network = folded(make)
    x = picture(19, 22).float()
    with torch.no_grad():
        exact = network(x)
        half = in_precision(network, "bf16")
        found = half(x)
        assert len(calls) == 2
        monkeypatch.setenv("FOCALSR_OPS", "reference")
        before = half(x)
    assert (found - exact).square().mean() <= 1.5 * (before - exact).square().mean()


@pytest.mark.build
def test_weights_may_change_between_calls(calls: list[Tensor]) -> None:
    network, x = folded(NETWORKS[1]), picture().float()
    with torch.no_grad():
        network(x)
        for parameter in network.parameters():
            parameter.mul_(0.9)
        twin = folded(NETWORKS[1])
        twin.load_state_dict(network.state_dict())
        assert torch.equal(network(x), twin(x))
    assert len(calls) == 3


@pytest.mark.build
def test_forward_runs_where_it_has_to(calls: list[Tensor]) -> None:
    network, x = folded(NETWORKS[1]), picture().float()
    network(x).sum().backward()
    with torch.no_grad():
        network.double()(x.double())
        network.float()
        network(x[..., :6])  # smaller than a window of the soft pooling
        seen = []
        handle = network.get_submodule("block2.body.0").register_forward_hook(lambda *_: seen.append(1))
        network(x)
        handle.remove()
        assert seen
        with torch.autocast("cpu", torch.bfloat16):
            network(x)
        assert not calls
        network(x)
        assert len(calls) == 1
