"""Window attention in chunks: registration of its operators, and what they keep and compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ops import window_attention
from tests.ops.inputs import CASES, Case, make, run

BIG = Case(images=2, windows=8, heads=2, queries=64, keys=64, width=8, value_width=8, mask=True)


@pytest.mark.parametrize("name", ["bias and mask", "plain", "narrow values"])
def test_opcheck(name: str) -> None:
    i = make(CASES[name], torch.float32)
    torch.library.opcheck(torch.ops.focalsr.chunked_window_attention, (i.q, i.k, i.v, i.bias, i.mask, 0.5))


@pytest.mark.parametrize(
    ("name", "dtype", "bias_gradient"),
    [
        ("narrow values", torch.float32, True),
        ("narrow values", torch.bfloat16, True),
        ("more keys", torch.float32, False),
        ("plain", torch.float32, False),
    ],
)
def test_opcheck_backward(name: str, dtype: torch.dtype, bias_gradient: bool) -> None:
    i = make(CASES[name], dtype)
    q, k, v = (x.detach() for x in (i.q, i.k, i.v))
    bias = None if i.bias is None else i.bias.detach()
    arguments = (i.grad, q, k, v, bias, i.mask, 0.5, bias_gradient)
    torch.library.opcheck(torch.ops.focalsr.chunked_window_attention_backward, arguments)


def saved_bytes(backend: str) -> int:
    """Bytes of distinct memory that a call keeps for its backward pass."""
    i = make(BIG, torch.float32)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        window_attention(i.q, i.k, i.v, i.bias, i.mask, backend=backend)
    return sum(kept.values())


def test_only_the_inputs_are_kept_for_the_backward_pass() -> None:
    i = make(BIG, torch.float32)
    inputs = sum(x.nbytes for x in (i.q, i.k, i.v, i.bias, i.mask) if x is not None)
    logits = i.q.shape[0] * i.q.shape[1] * i.q.shape[2] * i.k.shape[2] * 4
    assert saved_bytes("chunked") == inputs
    assert saved_bytes("reference") > logits


def test_gradients_are_the_same_each_time() -> None:
    first, second = (run(make(BIG, torch.float32), "chunked") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_gradient_where_only_the_bias_learns() -> None:
    i = make(CASES["bias and mask"])
    expected = run(i, "reference")[4]
    assert i.bias is not None
    out = window_attention(i.q.detach(), i.k.detach(), i.v.detach(), i.bias, i.mask, backend="chunked")
    torch.testing.assert_close(torch.autograd.grad(out, i.bias, i.grad)[0], expected)


def test_gradients_where_all_but_the_bias_learns() -> None:
    i = make(CASES["bias and mask"])
    expected = run(i, "reference")[1:4]
    assert i.bias is not None
    out = window_attention(i.q, i.k, i.v, i.bias.detach(), i.mask, backend="chunked")
    got = torch.autograd.grad(out, [i.q, i.k, i.v], i.grad)
    torch.testing.assert_close(list(got), expected)


def test_flops_are_counted() -> None:
    counts = {}
    for backend in ("reference", "chunked"):
        i = make(BIG, torch.float32)
        with FlopCounterMode(display=False) as forward:
            out = window_attention(i.q, i.k, i.v, i.bias, i.mask, backend=backend)
        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(out, i.leaves(), i.grad)
        counts[backend] = (forward.get_total_flops(), backward.get_total_flops())
    assert counts["chunked"][0] == counts["reference"][0] > 0
    assert counts["chunked"][1] == counts["reference"][1] * 5 // 4  # the logits once more


def test_the_heads_of_a_token_lie_side_by_side() -> None:
    out, *_ = run(make(CASES["bias and mask"]), "chunked")
    assert out.transpose(1, 2).is_contiguous()
