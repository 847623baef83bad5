"""Window attention: every backend against the formula, and the rules of the public function."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops import RegionMask, RelativeBias, window_attention
from ops.window import chunked as attention_chunked
from tests.ops.inputs import CASES, Case, make, run
from utils.errors import InputError

BACKENDS = ("reference", "sdpa", "chunked", "native", "auto")
FUSED = ("sdpa", "chunked", "native")
# Relative to the largest value. Half precision rounds the result once; the inputs are the same numbers for both.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def assert_close(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        largest = float(theirs.abs().max()) if theirs.numel() else 1.0
        torch.testing.assert_close(ours.to(theirs), theirs, rtol=0, atol=tolerance * max(1.0, largest))


def formula(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | RegionMask | None, scale: float
) -> Tensor:
    """One window and head at a time, from the definition."""
    if isinstance(mask, RegionMask):
        mask = mask.dense(q.dtype)
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype)
    for window in range(q.shape[0]):
        for head in range(q.shape[1]):
            logits = scale * q[window, head] @ k[window, head].T
            if bias is not None:
                logits = logits + bias[head]
            if mask is not None:
                logits = logits + mask[window % mask.shape[0]]
            weights = logits.exp() / logits.exp().sum(1, keepdim=True)
            out[window, head] = weights @ v[window, head]
    return out


@cases
@pytest.mark.parametrize("scale", [None, 0.7])
@torch.no_grad()
def test_reference_is_the_formula(case: Case, scale: float | None) -> None:
    i = make(case)
    out = window_attention(i.q, i.k, i.v, i.bias, i.mask, scale, backend="reference")
    expected = formula(i.q, i.k, i.v, i.bias, i.mask, case.width**-0.5 if scale is None else scale)
    assert_close([out], [expected], 1e-13)


@cases
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("backend", BACKENDS[:4])
def test_values_and_gradients(case: Case, dtype: torch.dtype, backend: str) -> None:
    inputs = make(case, dtype)
    expected = run(inputs.to(torch.float64), "reference", 0.4)
    got = run(inputs, backend, 0.4)
    assert got[0].dtype == dtype
    assert_close(got, expected, TOLERANCE[dtype])
    with torch.no_grad():
        i = inputs
        out = window_attention(i.q, i.k, i.v, i.bias, i.mask, 0.4, backend)
    assert_close([out], expected[:1], TOLERANCE[dtype])


@pytest.mark.gpu
@needs_cuda
@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_values_and_gradients_on_cuda(case: Case, dtype: torch.dtype) -> None:
    inputs = make(case, dtype)
    expected = run(inputs.to(torch.float64), "reference")
    moved = [None if x is None else x.detach().cuda() for x in (inputs.q, inputs.k, inputs.v, inputs.bias)]
    mask = (
        RegionMask(inputs.mask.regions.cuda()) if case.regions else None if inputs.mask is None else inputs.mask.cuda()
    )
    leaves = [x.requires_grad_() for x in moved if x is not None]
    q, k, v, bias = moved
    assert q is not None and k is not None and v is not None
    out = window_attention(q, k, v, bias, mask)
    got = [out.detach(), *torch.autograd.grad(out, leaves, inputs.grad.cuda())]
    # The bias is cast to half precision there.
    assert_close([x.cpu() for x in got], expected, 4 * TOLERANCE[dtype])


@settings(max_examples=40, deadline=None)
@given(
    case=st.builds(
        Case,
        images=st.integers(0, 3),
        windows=st.integers(1, 4),
        heads=st.integers(1, 3),
        queries=st.integers(1, 9),
        keys=st.integers(1, 9),
        width=st.integers(1, 9),
        value_width=st.integers(1, 9),
        bias=st.booleans(),
        mask=st.booleans(),
    ),
    chunk=st.integers(1, 300),
)
def test_any_shape_in_any_chunks(case: Case, chunk: int) -> None:
    inputs = make(case)
    expected = run(inputs, "reference")
    with mock.patch.object(attention_chunked, "CHUNK", chunk):
        assert_close(run(inputs, "chunked"), expected, 1e-12)
    assert_close(run(inputs, "sdpa"), expected, 1e-12)
    assert_close(run(inputs, "native"), expected, 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_mask_of_window_i_serves_window_i_of_each_image(backend: str) -> None:
    i = make(replace(CASES["plain"], images=3, windows=2))
    only = torch.full((2, 12, 12), -torch.inf, dtype=torch.float64)
    only[0, :, 3] = 0  # window 0 sees key 3 alone, window 1 key 5
    only[1, :, 5] = 0
    out = window_attention(i.q, i.k, i.v, mask=only, backend=backend).unflatten(0, (3, 2))
    values = i.v.unflatten(0, (3, 2))
    torch.testing.assert_close(out[:, 0], values[:, 0, :, 3:4].expand_as(out[:, 0]))
    torch.testing.assert_close(out[:, 1], values[:, 1, :, 5:6].expand_as(out[:, 1]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_table_with_an_index_is_its_dense_bias(backend: str) -> None:
    i = make(Case(mask=True))
    table = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    index = torch.randint(10, (12, 12))
    out = window_attention(i.q, i.k, i.v, RelativeBias(table, index), i.mask, backend=backend)
    expected = window_attention(i.q, i.k, i.v, table[index].permute(2, 0, 1), i.mask, backend="reference")
    torch.testing.assert_close(out, expected)
    (got,), (wanted,) = (torch.autograd.grad(x, table, i.grad) for x in (out, expected))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_regions_are_their_dense_mask(dtype: torch.dtype, backend: str) -> None:
    i = make(Case(images=2, windows=6, bias=False), dtype)
    regions = torch.zeros(6, 12, dtype=torch.uint8)
    for window in (2, 4, 5):  # two windows of one kind between free ones, and one of another
        regions[window, 5:] = 1
    regions[5, 9:] = 4
    apart = regions[:, :, None] != regions[:, None]
    mask = torch.where(apart, -100.0, 0.0).to(dtype)
    expected = run(replace(i, mask=mask), "reference")
    assert_close(run(replace(i, mask=RegionMask(regions)), backend), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides(backend: str) -> None:
    inputs = make(Case(mask=True))
    expected = run(inputs, backend)
    turned = replace(
        inputs,
        q=inputs.q.detach().mT.contiguous().mT.requires_grad_(),
        k=inputs.k.detach().flip(0).contiguous().flip(0).requires_grad_(),
        v=torch.stack([inputs.v.detach()] * 2, -1)[..., 1].requires_grad_(),
        grad=inputs.grad.mT.contiguous().mT,
    )
    assert not turned.q.is_contiguous() and turned.v.stride(-1) == 2
    assert_close(run(turned, backend), expected, 1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_without_memory_of_its_own(backend: str) -> None:
    inputs = make(CASES["bias"])
    ones = torch.ones((), dtype=torch.float64)
    expected = run(replace(inputs, grad=ones.expand(inputs.grad.shape).clone()), backend)
    assert_close(run(replace(inputs, grad=ones.expand(inputs.grad.shape)), backend), expected, 1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [CASES["bias"], CASES["bias and mask"]], ids=["bias", "mask"])
def test_a_batch_without_images(case: Case, backend: str) -> None:
    out, *gradients = run(make(replace(case, images=0)), backend)
    assert out.shape == (0, 3, 12, 6)
    assert [tuple(x.shape) for x in gradients] == [(0, 3, 12, 6)] * 3 + [(3, 12, 12)]
    assert not gradients[3].any()


@pytest.mark.parametrize("case", [CASES["bias and mask"], CASES["more keys"]], ids=["mask", "more keys"])
@pytest.mark.parametrize("backend", BACKENDS[:4])
def test_gradcheck(case: Case, backend: str) -> None:
    i = make(replace(case, images=1, windows=2, heads=2, queries=3, keys=min(case.keys, 4), width=2, value_width=2))
    mask = None if i.mask is None else i.mask.clamp(min=-2)  # a weight of e^-100 has no finite difference

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return window_attention(q, k, v, bias, mask, 0.6, backend)

    assert torch.autograd.gradcheck(attend, i.leaves())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast(dtype: torch.dtype, backend: str) -> None:
    i = make(CASES["bias and mask"], dtype)
    with torch.autocast("cpu", torch.bfloat16):
        out = window_attention(i.q, i.k, i.v, i.bias, i.mask, backend=backend)
    assert out.dtype == (torch.bfloat16 if dtype == torch.float32 else torch.float64)
    gradients = torch.autograd.grad(out, i.leaves(), i.grad.to(out.dtype))
    assert {x.dtype for x in gradients} == {dtype}
    with torch.no_grad():
        q, k, v = (x.to(out.dtype) for x in (i.q, i.k, i.v))
        expected = window_attention(q, k, v, i.bias, i.mask, backend=backend)
        assert_close([out.detach()], [expected], TOLERANCE[out.dtype])


def test_the_softmax_of_half_precision_is_exact() -> None:
    # Logits near 300 differ by 0.25: less than bfloat16 can tell there.
    q = torch.ones(1, 1, 1, 4, dtype=torch.bfloat16)
    bias = torch.tensor([[[300.0, 300.25]]])
    v = torch.tensor([[0.0], [1.0]], dtype=torch.bfloat16).expand(1, 1, 2, 1)
    expected = torch.tensor(0.25).sigmoid()
    for backend in BACKENDS:
        out = window_attention(q, torch.zeros(1, 1, 2, 4, dtype=torch.bfloat16), v, bias, backend=backend)
        torch.testing.assert_close(out.float().squeeze(), expected, atol=2e-3, rtol=0)


def test_inference_mode() -> None:
    i = make(CASES["bias and mask"])
    with torch.inference_mode():
        out = window_attention(i.q, i.k, i.v, i.bias, i.mask)
    torch.testing.assert_close(out.clone(), run(i, "reference")[0])


def test_dropout_is_the_references() -> None:
    i = make(CASES["bias"])
    torch.manual_seed(0)
    draws = [window_attention(i.q, i.k, i.v, i.bias, dropout=0.3) for _ in range(2)]
    assert not torch.equal(*draws)
    many = torch.stack([window_attention(i.q, i.k, i.v, i.bias, dropout=0.3) for _ in range(800)]).mean(0)
    torch.testing.assert_close(many, window_attention(i.q, i.k, i.v, i.bias), atol=0.2, rtol=0)
    for backend in FUSED:
        with pytest.raises(InputError, match=f"backend {backend} .* used: attention weights are to be dropped"):
            window_attention(i.q, i.k, i.v, i.bias, backend=backend, dropout=0.3)


def test_a_mask_that_learns_goes_to_the_reference() -> None:
    i = make(CASES["bias and mask"])
    assert i.mask is not None
    mask = i.mask.clone().requires_grad_()
    out = window_attention(i.q, i.k, i.v, i.bias, mask)
    assert torch.autograd.grad(out.sum(), mask)[0].shape == mask.shape
    for backend in FUSED:
        with pytest.raises(InputError, match=rf"backend {backend} .* used: the mask needs a gradient; detach it"):
            window_attention(i.q, i.k, i.v, i.bias, mask, backend=backend)


def zeros(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


Q, K = zeros(6, 2, 5, 4), zeros(6, 2, 7, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Q[0], K, K), "q, k, v are [2, 5, 4], [6, 2, 7, 4], [6, 2, 7, 4], expected [windows, heads, tokens, width]"),
        ((Q, K[:3], K), "k is [3, 2, 7, 4], expected [6, 2, keys, 4] beside q [6, 2, 5, 4]"),
        ((Q, K[..., :3], K), "k is [6, 2, 7, 3], expected [6, 2, keys, 4] beside q [6, 2, 5, 4]"),
        ((Q, K, Q), "v is [6, 2, 5, 4], expected [6, 2, 7, width] beside k [6, 2, 7, 4]"),
        ((Q, K[:, :, :0], K[:, :, :0]), "windows of 5 queries and 0 keys, expected at least one each"),
        ((Q, K, K, zeros(1, 5, 7)), "the bias is [1, 5, 7], expected [heads, queries, keys] = [2, 5, 7]"),
        ((Q, K, K, None, zeros(5, 7)), "the mask is [5, 7], expected [windows of an image, queries, keys]"),
        ((Q, K, K, None, zeros(4, 5, 7)), "6 windows cannot be images of 4 windows each, as the mask says"),
        ((Q, K, K, None, zeros(0, 5, 7)), "6 windows cannot be images of 0 windows each, as the mask says"),
        (
            (Q, K.double(), K),
            "q, k, v are torch.float32, torch.float64, torch.float32, expected one floating-point t",
        ),
        ((Q.long(), K.long(), K.long()), "q, k, v are torch.int64, torch.int64, torch.int64, expected one"),
        ((Q, K, K, None, zeros(1, 5, 7, dtype=torch.bool)), "the mask is torch.bool, expected floating-point numbers"),
        ((Q, Q, Q, None, RegionMask(zeros(2, 5))), "RegionMask: the regions are [2, 5] of torch.float32, expected ui"),
        (
            (Q, K, K, None, RegionMask(zeros(2, 5, dtype=torch.uint8))),
            "the regions are [2, 5], expected [windows of an image, tokens] with 5 queries and 7 keys being",
        ),
        ((Q, K, K, zeros(2, 5, 7, device="meta")), "the bias is on meta, expected cpu, where q is"),
    ],
)
def test_arguments_that_do_not_fit_raise_with_their_values(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        window_attention(*arguments)


def test_devices_without_kernels_take_the_reference() -> None:
    q = zeros(4, 2, 9, 3, device="meta")
    assert window_attention(q, q, q).shape == q.shape
    with pytest.raises(InputError, match=r"sdpa cannot be used: it has kernels for cpu and cuda only; on meta, where"):
        window_attention(q, q, q, backend="sdpa")
    with pytest.raises(InputError, match=r"chunked .* used: its chunks are those that suit a CPU, .* are on meta"):
        window_attention(q, q, q, backend="chunked")
    with pytest.raises(InputError, match=r"native .* used: it has kernels for cpu only; on meta"):
        window_attention(q, q, q, backend="native")
