"""ops.linear: every way gives the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ops import linear
from ops.mlp.linear import LINEAR, LinearCall
from utils.errors import InputError

needs_onednn = pytest.mark.skipif(LINEAR.choose(LinearCall("cpu")).name != "onednn", reason="torch without oneDNN")


@needs_onednn
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_onednn_is_the_layer_of_torch(biased: bool, gelu: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 7, 12), torch.randn(9, 12), torch.randn(9) if biased else None
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    expected = F.gelu(expected) if gelu else expected
    for values in (x, x.transpose(1, 2).contiguous().transpose(1, 2)):
        found = linear(values, weight, bias, gelu=gelu, backend="onednn")
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(linear(x, weight, bias, gelu=gelu), linear(x, weight, bias, gelu=gelu, backend="onednn"))


@pytest.mark.parametrize("gelu", [False, True])
def test_gradients(gelu: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (5, 4), (5,)))
    assert torch.autograd.gradcheck(lambda *tensors: linear(*tensors, gelu=gelu), (x, weight, bias))


def test_what_onednn_does_not_serve() -> None:
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    assert linear(x[:0], weight).shape == (0, 5)
    assert linear(x.bfloat16(), weight.bfloat16(), gelu=True).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    compiled = torch.compile(lambda x: linear(x, weight, gelu=True), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), linear(x, weight, gelu=True))
    with pytest.raises(InputError, match="no backward pass"):
        linear(x.requires_grad_(), weight, backend="onednn")
    with pytest.raises(InputError, match="serves float32, and bfloat16"):
        linear(x.detach().double(), weight.double(), backend="onednn")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_meets_weights_of_half_precision_in_their_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, 12), torch.randn(9, 12).to(dtype), torch.randn(9).to(dtype)
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x.to(dtype), weight, bias))
    with torch.autocast("cpu", torch.bfloat16):  # which says itself what meets in which type
        assert linear(x, weight, bias).dtype is torch.bfloat16


@pytest.mark.parametrize("backend", [pytest.param("onednn", marks=needs_onednn), "reference"])
def test_flops_are_those_of_the_product(backend: str) -> None:
    x, weight, bias = torch.randn(2, 3, 12), torch.randn(9, 12), torch.randn(9)
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias, gelu=True, backend=backend)
    assert counter.get_total_flops() == 2 * 6 * 12 * 9
