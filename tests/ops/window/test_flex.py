"""FlexAttention as a backend: when it refuses, and on a GPU that it agrees with the reference."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from ops import registry, window_attention
from ops.window import flex as attention_flex
from ops.window.arguments import WindowCall
from ops.window.attention import WINDOW_ATTENTION
from tests.ops.inputs import CASES, make
from utils.errors import InputError


def refusal(**call: Any) -> str | None:
    return attention_flex.BACKEND.refusal(WindowCall(**{"device": "cuda", "width": 16, **call}))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"device": "cpu", "gradient": True}, "no backward pass of it on the CPU"),
        ({"width": 15}, "heads of width 15 are narrower than 16"),
        ({"masked": True}, "there is a mask"),
        ({"dropout": True}, "weights are to be dropped"),
        ({"device": "xpu"}, "on xpu, where the tensors are"),
    ],
)
def test_flex_says_why_it_refuses_a_call(call: dict[str, Any], sentence: str) -> None:
    assert sentence in str(refusal(**call))


def test_flex_refuses_where_nothing_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    attention_flex.missing_compiler.cache_clear()
    try:
        assert "Triton, which is not installed" in str(refusal())
        assert "there is no C++ compiler" in str(refusal(device="cpu"))
    finally:
        attention_flex.missing_compiler.cache_clear()


def test_flex_says_that_it_is_not_deterministic() -> None:
    backend = next(backend for backend in WINDOW_ATTENTION.backends if backend.name == "flex")
    assert "differs from run to run" in backend.shortfall


def test_flex_as_a_preference_gives_way_and_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("focalsr"), "propagate", True)
    registry.say_once.cache_clear()
    i = make(CASES["bias"], torch.float32)
    with pytest.raises(InputError, match="backend flex cannot be used: PyTorch has no backward pass"):
        window_attention(i.q, i.k, i.v, i.bias, backend="flex")
    with caplog.at_level(logging.INFO, logger="focalsr"):
        for _ in range(2):
            out = window_attention(i.q, i.k, i.v, i.bias, backend="flex", strict=False)
    assert torch.equal(out, window_attention(i.q, i.k, i.v, i.bias))
    said = [record.getMessage() for record in caplog.records if "preferred" in record.getMessage()]
    assert len(said) == 1
    assert "backend flex is preferred, but not used: PyTorch has no backward pass of it on the CPU" in said[0]
    with pytest.raises(InputError, match="there is no backend"):
        window_attention(i.q, i.k, i.v, i.bias, backend="flash", strict=False)


def test_a_drawback_counts_for_a_preference_only() -> None:
    call = WindowCall("cpu")
    assert WINDOW_ATTENTION.choose(call, "reference", strict=False).name == "reference"
    assert WINDOW_ATTENTION.choose(call, "flex", strict=False).name != "flex"


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("case", ["plain", "bias", "more keys", "wide values"])
def test_flex_uncompiled_is_the_reference(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Uncompiled it is slow and stores the logits, but computes what the compiled kernel does.
    monkeypatch.setattr(attention_flex, "compiled", lambda: flex_attention)
    i = make(CASES[case], torch.float64)
    if not attention_flex.takes_width(i.q.shape[-1]):
        pytest.skip("this version of torch does not take heads of this width")
    with torch.no_grad():
        found = window_attention(i.q, i.k, i.v, i.bias, backend="flex")
        assert torch.allclose(found, window_attention(i.q, i.k, i.v, i.bias, backend="reference"), rtol=1e-10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flex_on_a_gpu_is_the_reference(dtype: torch.dtype) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v, grad = (torch.randn(6, 3, 256, 16, device="cuda", generator=generator, dtype=dtype) for _ in range(4))
    bias = torch.randn(3, 256, 256, device="cuda", generator=generator)
    results = []
    for backend in ("reference", "flex"):
        inputs = tuple(x.clone().requires_grad_() for x in (q, k, v, bias))
        out = window_attention(inputs[0], inputs[1], inputs[2], inputs[3], backend=backend)
        results.append([out, *torch.autograd.grad(out, inputs, grad)])
    for expected, found in zip(*results, strict=True):
        assert (found - expected).abs().max() < (2e-2 if dtype is torch.bfloat16 else 2e-3) * expected.abs().max()
