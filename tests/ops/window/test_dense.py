"""The backward pass of window attention by products of whole windows: against the reference, on any device."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from ops import maps
from ops.window.arguments import WindowBackward
from ops.window.dense import add_gradients
from ops.window.region_mask import RegionMask
from tests.ops.inputs import CASES, Case, make, run

# Relative to the largest value; half precision multiplies weights and their gradients in its own type.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 1.2e-2, torch.float16: 1.5e-3}
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("windows", [1, 3, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_reference(name: str, dtype: torch.dtype, windows: int) -> None:
    i = make(CASES[name], dtype)
    expected = run(i.to(torch.float64), "reference")[1:]
    q, k, v = (x.detach() for x in (i.q, i.k, i.v))
    mask = i.mask.regions if isinstance(i.mask, RegionMask) else i.mask
    bias = None if i.bias is None else i.bias.detach()
    got = [torch.full_like(x, float("nan")) for x in (q, k, v)]
    d_bias = None if bias is None else torch.zeros_like(bias)
    arguments = WindowBackward(i.grad, q, k, v, bias, mask, q.shape[-1] ** -0.5, bias is not None)
    with mock.patch.object(maps, "MAP_BYTES", 4 * windows * q.shape[2] * k.shape[2]):
        add_gradients(arguments, *got, d_bias)
    for x, y in zip([*got, *([] if d_bias is None else [d_bias])], expected, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=0, atol=TOLERANCE[dtype] * max(1, float(y.abs().max())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", [*CASES, "large"])
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_gpu_is_the_reference(device: str, name: str, dtype: torch.dtype) -> None:
    large = Case(images=2, windows=8, heads=3, queries=256, keys=576, width=30, value_width=30, mask=True)
    i = make(CASES.get(name, large), dtype)
    expected = run(i.to(torch.float64), "reference")
    mask = RegionMask(i.mask.regions.to(device)) if isinstance(i.mask, RegionMask) else i.mask
    moved = type(i)(
        *(None if x is None else x.detach().to(device) for x in (i.q, i.k, i.v, i.bias)),
        mask.to(device) if isinstance(mask, torch.Tensor) else mask,
        i.grad.to(device),
    ).to(dtype)
    got, again = (run(moved, "chunked") for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(got[1:], again[1:], strict=True))
    for x, y in zip(got, expected, strict=True):
        error = (x.double().cpu() - y).abs().max() / max(1, float(y.abs().max()))
        assert error < TOLERANCE[dtype] + (5e-3 if x is got[0] and dtype != torch.float32 else 0), float(error)
