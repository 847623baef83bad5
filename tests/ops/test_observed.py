"""Calls of attention are handed to who observes them, and nothing else is any different."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ops import AttentionCall, RegionMask, focused_attention, observed_by, window_attention
from ops.registry import ENVIRONMENT

REGIONS = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]], dtype=torch.uint8)


def operands(windows: int = 4, keys: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(windows, 2, n, 8, generator=generator, dtype=torch.float64) for n in (4, keys, keys))
    return q, k, v


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_weights_of_window_attention_times_the_values_are_its_result(backend: str) -> None:
    q, k, v = operands()
    bias = torch.randn(2, 4, 4, dtype=torch.float64)
    calls: list[AttentionCall] = []
    with observed_by(calls.append):
        out = window_attention(q, k, v, bias, RegionMask(REGIONS), backend=backend)
    assert torch.equal(out, window_attention(q, k, v, bias, RegionMask(REGIONS), backend=backend))
    [call] = calls
    assert (call.windows, call.heads, call.queries, call.keys) == (4, 2, 4, 4)
    assert torch.allclose(call.weights() @ v, out)
    assert torch.equal(call.weights(slice(3, 4), slice(1, 3)), call.weights()[3:4, :, 1:3])
    visible = call.visible(slice(1, 4), slice(2, 3))
    assert visible is not None
    assert visible.tolist() == [[[False, False, True, True]], [[True] * 4], [[False, False, True, True]]]
    dense = torch.zeros(2, 4, 4).masked_fill(REGIONS[:, :, None] != REGIONS[:, None], -torch.inf)
    with observed_by(calls.append):
        window_attention(q, k, v, bias, dense.double())
    assert torch.allclose(calls[1].weights(slice(1, 2)), call.weights(slice(1, 2)), atol=1e-12)
    seen = calls[1].visible(slice(1, 4), slice(2, 3))
    assert seen is not None
    assert torch.equal(seen, visible)


@pytest.mark.parametrize("environment", ["auto", "reference"])
def test_weights_of_focused_attention_times_the_values_are_its_result(
    environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, environment)
    table = torch.randn(9, 2, dtype=torch.float64)
    calls: list[AttentionCall] = []
    state = None
    for layer, topk in enumerate((4, 4, 3, 2)):
        q, k, v = operands()
        with observed_by(calls.append):
            out, state = focused_attention(q + layer, k, v, table, state, window=2, topk=topk, regions=REGIONS)
        # One call each: that a backend computes a layer by window attention is its own affair.
        assert len(calls) == layer + 1
        weights = calls[layer].weights()
        assert torch.allclose(weights @ v, out)
        assert torch.allclose(calls[layer].weights(slice(1, 3), slice(3, 4)), weights[1:3, :, 3:4])
        assert ((weights > 0).sum(-1) <= topk).all()


def test_observers_end_with_their_context_and_see_no_program() -> None:
    q, k, v = operands(keys=6)
    calls: list[AttentionCall] = []

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return window_attention(q, k, v)

    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    with observed_by(calls.append):
        with observed_by(None):
            attention(q, k, v)
        compiled(q, k, v)
        torch.export.export(_Module(), (q, k, v))
        assert calls == []
        attention(q, k, v)
    attention(q, k, v)
    assert len(calls) == 1
    with pytest.raises(RuntimeError, match="stop"), observed_by(calls.append):
        raise RuntimeError("stop")
    attention(q, k, v)
    assert len(calls) == 1


class _Module(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One attention."""
        return window_attention(q, k, v)
