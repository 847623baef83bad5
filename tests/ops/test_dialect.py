"""Programs that are recorded for runtimes with different operators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ops import RegionMask, window_attention
from ops.dialect import ONNX_18, ONNX_23, TORCH, Dialect, dialect, recorded_for
from ops.focused.composed import largest
from ops.registry import exporting

pytestmark = pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"), reason="this torch cannot tell exporting from compiling"
)


class Attention(nn.Module):
    """Of two images of two windows each, with regions."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        regions = torch.arange(12, device=x.device).view(2, 6).byte() % 2
        return window_attention(x, x + 1, x - 1, bias, RegionMask(regions))


class Largest(nn.Module):
    """The three largest numbers of each row."""

    def forward(self, x: Tensor) -> Tensor:
        return largest(x, 3)


def exported(module: nn.Module, inputs: tuple[Tensor, ...], kind: Dialect) -> tuple[Tensor, set[str]]:
    """What the program computes, and its operators."""
    with recorded_for(kind), torch.no_grad():
        program = torch.export.export(module.eval(), inputs)
    operators = {
        getattr(node.target, "__name__", "").split(".")[0] for node in program.graph.nodes if node.op == "call_function"
    }
    with torch.no_grad():
        result: Tensor = program.module()(*inputs)
    return result, operators


@pytest.mark.parametrize("kind", [TORCH, ONNX_18, ONNX_23])
def test_attention_is_an_operator_where_there_is_one(kind: Dialect) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.randn(4, 3, 6, 8, generator=generator), torch.randn(3, 6, 6, generator=generator))
    found, operators = exported(Attention(), inputs, kind)
    torch.testing.assert_close(found, Attention()(*inputs), rtol=0, atol=1e-6)
    assert ("scaled_dot_product_attention" in operators) == kind.attention
    assert ("softmax" in operators) != kind.attention


@pytest.mark.parametrize("kind", [TORCH, ONNX_18])
def test_lists_of_the_largest_hold_the_same(kind: Dialect) -> None:
    x = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(1))
    found, operators = exported(Largest(), (x,), kind)
    assert torch.equal(found.sort(-1).values, largest(x, 3))
    assert ("cumsum" in operators) != kind.stable_topk


def test_outside_of_it_programs_are_for_pytorch() -> None:
    assert not exporting()
    with pytest.raises(KeyError), recorded_for(ONNX_18):
        assert dialect() is ONNX_18
        with recorded_for(ONNX_23):
            assert dialect() is ONNX_23
        assert dialect() is ONNX_18
        raise KeyError
    assert dialect() is TORCH
