"""depthwise_conv2d: the reference, and the CUDA kernels on emulated threads and on a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ops
from ops import build
from ops.depthwise import SIDES, DepthwiseArguments, native_depthwise
from tests.ops.emulation import VALUES, emulated, launch, unset
from utils.errors import InputError

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}
SIZES = {"one pixel": (1, 1, 1, 5), "wider than a warp": (2, 5, 7, 40), "more rows than warps": (3, 13, 4, 33)}


def made(size: tuple[int, ...], side: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A map, a kernel, a bias, and a gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    shapes = (size, (size[-1], 1, side, side), (size[-1],), size)
    x, weight, bias, grad = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return x, weight, bias, grad


def differentiated(operands: Sequence[Tensor], backend: str) -> list[Tensor]:
    """Result and gradients for what :func:`made` makes."""
    x, weight, bias, grad = (tensor.detach().clone().requires_grad_() for tensor in operands)
    out = ops.depthwise_conv2d(x, weight, bias, backend)
    return [out.detach(), *torch.autograd.grad(out, (x, weight, bias), grad.detach())]


def test_it_is_pytorchs_convolution() -> None:
    x, weight, bias, _ = made((2, 5, 7, 4), 5)
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=2, groups=4).permute(0, 2, 3, 1)
    assert torch.equal(ops.depthwise_conv2d(x, weight, bias), expected)
    torch.testing.assert_close(ops.depthwise_conv2d(x, weight), expected - bias)


@pytest.mark.parametrize("wrong", ["x", "weight", "bias", "even"])
def test_shapes_that_do_not_fit_are_refused(wrong: str) -> None:
    x, weight, bias, _ = made((1, 4, 4, 3), 3)
    x, weight = (x[0], weight) if wrong == "x" else (x, weight[:2]) if wrong == "weight" else (x, weight)
    bias, weight = (bias[:2] if wrong == "bias" else bias), (weight[..., :2, :2] if wrong == "even" else weight)
    with pytest.raises(InputError, match="depthwise_conv2d: x"):
        ops.depthwise_conv2d(x, weight, bias)


def test_the_gradient_by_hand_is_that_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, turned: bool) -> Tensor:  # in the place of the kernels
        asked.append(turned)
        return ops.depthwise_conv2d(x, weight.flip((-2, -1)) if turned else weight, bias, "reference")

    def gradient(x: Tensor, grad: Tensor, side: int) -> Tensor:
        asked.append(side)
        kernel = torch.zeros(x.shape[-1], 1, side, side, requires_grad=True)
        return torch.autograd.grad(ops.depthwise_conv2d(x, kernel, None, "reference"), kernel, grad)[0]

    monkeypatch.setattr(torch.ops.focalsr, "depthwise_convolve", convolve, raising=False)
    monkeypatch.setattr(torch.ops.focalsr, "depthwise_weight_gradient", torch.enable_grad()(gradient), raising=False)
    for dtype, side, tolerance, expected_calls in (
        (torch.float32, 3, 1e-5, [False, True, 3]),
        (torch.bfloat16, 3, 2e-2, [False]),  # the gradients by PyTorch
        (torch.bfloat16, 5, 2e-2, [False, True]),
    ):
        operands = [tensor.to(dtype) for tensor in made((2, 5, 7, 4), side)]
        expected = differentiated([tensor.double() for tensor in operands], "reference")
        leaves = [tensor.requires_grad_() for tensor in operands[:3]]
        out = native_depthwise(DepthwiseArguments(*leaves))
        got = [out.detach(), *torch.autograd.grad(out, leaves, operands[3])]
        for ours, theirs in zip(got, expected, strict=True):
            assert ours.dtype == dtype
            assert float((ours - theirs).norm() / theirs.norm()) < tolerance
        assert asked == expected_calls
        asked.clear()


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    """The launchers of ops/csrc/depthwise_cuda.cu, on emulated threads."""
    library = emulated("depthwise")
    library.segments.restype = ctypes.c_int64
    return library


@pytest.mark.build
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_emulated_gradient_is_that_of_autograd(kernels: ctypes.CDLL, size: tuple[int, ...], side: int) -> None:
    x, weight, bias, grad = made(size, side)
    expected = differentiated((x, weight, bias, grad), "reference")[2]
    sizes = (ctypes.c_int64 * 4)(*size)
    parts = unset(kernels.segments(sizes), side * side, size[-1])
    buffers = (x.float(), grad.float(), parts)
    *_, parts = launch(kernels, "parts", (torch.float32, torch.int32), buffers, sizes, ctypes.c_int64(side))
    got = parts.double().sum(0).t().reshape(expected.shape)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.build
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", [*SIZES.values(), (1, 3, 70, 3)], ids=[*SIZES, "wider than a cut"])
def test_emulated_convolution_is_pytorchs(
    kernels: ctypes.CDLL, size: tuple[int, ...], side: int, dtype: torch.dtype
) -> None:
    operands = [tensor.to(dtype) for tensor in made(size, side)]
    x, weight, bias, grad = (tensor.double() for tensor in operands)
    out, d_x, _, _ = differentiated((x, weight, bias, grad), "reference")
    sizes, types, result = (ctypes.c_int64 * 4)(*size), (dtype, torch.int32), unset(*size, dtype=dtype)
    k = ctypes.c_int64(side)
    got = launch(kernels, "convolve", types, (*operands[:3], result), sizes, k, 0)[-1]
    turned = launch(kernels, "convolve", types, (operands[3], operands[1], None, result), sizes, k, 1)[-1]
    for ours, theirs in ((got, out), (turned, d_x)):
        torch.testing.assert_close(ours.double(), theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", [*SIZES.values(), (2, 64, 64, 96)])
def test_gpu_is_autograd(size: tuple[int, ...], side: int, dtype: torch.dtype) -> None:
    assert build.cuda_extension("depthwise") is None
    operands = [tensor.to(dtype) for tensor in made(size, side)]
    expected = differentiated([tensor.double() for tensor in operands], "reference")
    runs = [differentiated([tensor.cuda() for tensor in operands], "native") for _ in range(2)]
    assert all(torch.equal(runs[0][i], runs[1][i]) for i in range(3 if dtype == torch.float32 else 2))
    for got, wanted in zip(runs[0], expected, strict=True):
        assert float((got.cpu() - wanted).norm() / wanted.norm()) < TOLERANCE[dtype]
