"""Window attention on PyTorch's fused kernels: chunks and padding, and when other backends serve instead."""

from __future__ import annotations

import pytest
import torch

from ops.window import sdpa
from ops.window.arguments import WindowArguments, WindowCall
from ops.window.attention import WINDOW_ATTENTION
from ops.window.reference import reference_attention
from ops.window.sdpa import BACKEND, cuda_attention, fused_attention
from tests.ops.inputs import CASES, Case, make
from tests.ops.window.test_attention import assert_close
from utils.device_memory import DeviceMemory

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def arguments_of(case: Case) -> WindowArguments:
    i = make(case)
    return WindowArguments(i.q, i.k, i.v, i.bias, i.mask.regions if case.regions else i.mask, 0.4)


@cases
@pytest.mark.parametrize("width_multiple", [1, 8])
@pytest.mark.parametrize("per_call", [1, 3, None])
def test_fused_attention_of_a_few_windows_at_a_time_is_the_reference(
    case: Case, width_multiple: int, per_call: int | None
) -> None:
    arguments = arguments_of(case)
    out = fused_attention(arguments, width_multiple=width_multiple, per_call=per_call)
    assert_close([out.detach()], [reference_attention(arguments).detach()], 1e-13)


@cases
def test_what_sdpa_runs_on_a_gpu_is_the_reference_on_the_cpu(case: Case) -> None:
    arguments, i = arguments_of(case), make(case)
    leaves = [x for x in arguments[:4] if isinstance(x, torch.Tensor)]
    found, expected = (
        [out.detach(), *torch.autograd.grad(out, leaves, i.grad)]
        for out in (cuda_attention(arguments), reference_attention(arguments))
    )
    assert_close(found, expected, 1e-13)


def test_more_windows_at_once_where_there_is_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    for total, expected in ((None, 1 << 25), (4 << 30, 1 << 25), (80 << 30, 80 << 22)):
        memory = None if total is None else DeviceMemory(0, total)
        monkeypatch.setattr(sdpa, "device_memory", lambda device, memory=memory: memory)
        monkeypatch.setattr(sdpa, "_elements", {})
        assert sdpa.elements_at_once(device) == expected


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (WindowCall("cpu", gradient=True), "stores the logits"),
        (WindowCall("cpu", masked=True), "joins mask and bias for each window and head"),
        (WindowCall("cpu", few_keys=True), "no more keys than a head has channels"),
        (WindowCall("cpu"), None),
        (WindowCall("cuda", gradient=True, masked=True, few_keys=True), None),
    ],
)
def test_sdpa_has_a_drawback_where_another_backend_is_better(call: WindowCall, sentence: str | None) -> None:
    drawback = BACKEND.drawback(call)
    assert drawback is None if sentence is None else sentence in str(drawback)
    assert WINDOW_ATTENTION.choose(call, "sdpa") is BACKEND
