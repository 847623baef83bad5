"""gelu_depthwise: the compiled kernel against the definition."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ops import depthwise_gelu, explain, gelu_depthwise
from tests.ops.kernels import require_cpu_kernels
from utils.errors import InputError

TOLERANCE: Mapping[torch.dtype, float] = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2e-2}


@pytest.fixture(scope="module")
def kernels() -> None:
    require_cpu_kernels("gelu_depthwise")


def inputs(shape: tuple[int, int, int, int], side: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(side)
    C = shape[-1]
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(C, 1, side, side, generator=generator, dtype=torch.float64) / side
    bias = torch.randn(C, generator=generator, dtype=torch.float64)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def test_reference_is_the_formula() -> None:
    x, weight, bias = inputs((1, 2, 3, 4), 3)
    t = torch.nn.functional.gelu(x)
    expected = torch.zeros_like(x)
    for row in range(2):
        for column in range(3):
            total = bias.clone()
            for down in range(3):
                for across in range(3):
                    y, z = row + down - 1, column + across - 1
                    if 0 <= y < 2 and 0 <= z < 3:
                        total += weight[:, 0, down, across] * t[0, y, z]
            expected[0, row, column] = t[0, row, column] + torch.nn.functional.gelu(total)
    torch.testing.assert_close(gelu_depthwise(x, weight, bias, "reference"), expected, rtol=1e-13, atol=1e-13)


# Narrower than the kernel, several strips and pieces, channels that fill no vector, one pixel.
@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    ("shape", "side"), [((2, 9, 70, 13), 3), ((1, 130, 65, 8), 7), ((1, 3, 2, 26), 5), ((1, 1, 1, 1), 1)]
)
def test_kernel_equals_the_reference(shape: tuple[int, int, int, int], side: int, dtype: torch.dtype) -> None:
    x, weight, bias = inputs(shape, side, dtype)
    expected = gelu_depthwise(x.double(), weight.double(), bias.double(), "reference")
    found = gelu_depthwise(x, weight, bias, "native")
    assert found.dtype == dtype
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error <= TOLERANCE[dtype]


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_gelu_over_the_whole_range() -> None:
    x = torch.cat([torch.linspace(-12, 12, 100001), torch.tensor([0.0, 1e30, -1e30, torch.inf, torch.nan])])
    x = x.view(1, 1, -1, 1)
    # A kernel of zeros and a bias of zero leave gelu(x) + gelu(0).
    found = gelu_depthwise(x, torch.zeros(1, 1, 1, 1), torch.zeros(1), "native").flatten()
    expected = torch.nn.functional.gelu(x.double()).flatten()
    finite = expected.isfinite()
    assert torch.equal(found.isfinite()[:-2], finite[:-2])
    assert not found[-1].isfinite()
    error = (found - expected).abs()[finite] / x.flatten()[finite].abs().clamp(min=1)
    assert error.max() < 1e-6


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_kernel_does_not_depend_on_strips_threads_or_layout() -> None:
    x, weight, bias = inputs((1, 140, 150, 10), 5, torch.float32)
    whole = gelu_depthwise(x, weight, bias, "native")
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(gelu_depthwise(x, weight, bias, "native"), whole)
    finally:
        torch.set_num_threads(threads)
    scattered = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert torch.equal(gelu_depthwise(scattered, weight, bias, "native"), whole)
    part = gelu_depthwise(x[:, 30:80, 20:90].contiguous(), weight, bias, "native")
    assert torch.equal(part[:, 2:-2, 2:-2], whole[:, 32:78, 22:88])


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_choice() -> None:
    x, weight, bias = inputs((1, 4, 4, 4), 3)
    operator = torch.ops.focalsr.gelu_depthwise.default
    torch.library.opcheck(operator, (x, weight, bias), test_utils=("test_schema", "test_faketensor"))
    with FlopCounterMode(display=False) as counter:
        gelu_depthwise(x, weight, bias)
    assert counter.get_total_flops() == 2 * 4 * 4 * 4 * 9
    torch.library.opcheck(torch.ops.focalsr.gelu_depthwise_backward.default, (x, x, weight, bias, True), test_utils=(
        "test_schema", "test_faketensor",
    ))  # fmt: skip
    with FlopCounterMode(display=False) as counter:
        torch.ops.focalsr.gelu_depthwise_backward(x, x, weight, bias, False)
    assert counter.get_total_flops() == 3 * 2 * 4 * 4 * 4 * 9
    assert any(choice.operator == "gelu_depthwise" for choice in explain())


def test_gradient() -> None:
    x, weight, bias = (tensor.requires_grad_() for tensor in inputs((1, 3, 4, 2), 3))
    assert torch.autograd.gradcheck(functools.partial(gelu_depthwise, backend="reference"), (x, weight, bias))


def gradients(function: Callable[..., Tensor], arguments: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in arguments]
    return torch.autograd.grad(function(*leaves), leaves, grad)


# Pieces of eight places and of one; channels that fill no vector; kernels that reach beyond the image on both sides.
@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    ("shape", "side"),
    [((2, 9, 21, 13), 3), ((1, 13, 16, 8), 7), ((1, 3, 2, 26), 5), ((1, 4, 11, 5), 9), ((1, 1, 1, 1), 1)],
)
def test_gradients_of_the_kernels(shape: tuple[int, int, int, int], side: int, dtype: torch.dtype) -> None:
    """Of both operators, which agree with those of the definitions."""
    arguments = inputs(shape, side, dtype)
    B, H, W, _ = shape
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    order = torch.randperm(B * H * W, generator=generator)

    def after(x: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
        pixels = torch.cat([x.new_full((B * H * W, 3), torch.nan), x.flatten(0, 2)], -1)[:, 3:]
        return depthwise_gelu(pixels, order, (H, W), weight, bias, backend)

    for function in (gelu_depthwise, after):
        exact = [tensor.double() for tensor in arguments]
        expected = gradients(functools.partial(function, backend="reference"), exact, grad.double())
        found = gradients(functools.partial(function, backend="native"), arguments, grad)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.dtype == dtype
            assert (mine.double() - theirs).abs().max() <= TOLERANCE[dtype] * theirs.abs().max()


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_gradients_do_not_depend_on_threads_or_other_images() -> None:
    *arguments, grad = *inputs((3, 20, 17, 20), 7, torch.float32), torch.randn(3, 20, 17, 20)
    function = functools.partial(gelu_depthwise, backend="native")
    whole = gradients(function, arguments, grad)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert all(map(torch.equal, gradients(function, arguments, grad), whole))
    finally:
        torch.set_num_threads(threads)
    x, weight, bias = arguments
    assert torch.equal(gradients(function, (x[1:2], weight, bias), grad[1:2])[0], whole[0][1:2])


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_gradient_of_some_pixels() -> None:
    x, weight, bias = torch.randn(6, 2, requires_grad=True), torch.randn(2, 1, 3, 3), torch.randn(2)
    depthwise_gelu(x, torch.tensor([4, 1]), (1, 2), weight, bias, "native").sum().backward()
    assert x.grad is not None
    assert x.grad.count_nonzero(-1).tolist() == [0, 2, 0, 0, 2, 0]
    with pytest.raises(ValueError, match="names 4 again"):
        depthwise_gelu(x, torch.tensor([4, 4]), (1, 2), weight, bias, "native").sum().backward()


def test_bad_input() -> None:
    x, weight, bias = inputs((1, 4, 4, 4), 3)
    for arguments in (
        (x[0], weight, bias),
        (x, weight[:3], bias),
        (x, weight[..., :2, :2], bias),
        (x, weight, bias[:1]),
    ):
        with pytest.raises(InputError, match="expected"):
            gelu_depthwise(*arguments)


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("shape", "side"), [((2, 9, 70, 13), 3), ((1, 67, 65, 8), 7), ((1, 1, 1, 1), 1)])
def test_pixels_in_any_order(shape: tuple[int, int, int, int], side: int, dtype: torch.dtype) -> None:
    """GELU after the convolution alone; pixels lie in a wider tensor, in an order of their own, some of them twice."""
    x, weight, bias = inputs(shape, side, dtype)
    B, H, W, C = shape
    order = torch.randint(B * H * W, (B * H * W,), generator=torch.Generator().manual_seed(0))
    pixels = torch.cat([x.new_full((B * H * W, 3), torch.nan), x.flatten(0, 2)], -1)[:, 3:]
    image = pixels[order].view(shape).double().permute(0, 3, 1, 2)
    y = torch.nn.functional.conv2d(image, weight.double(), bias.double(), padding=side // 2, groups=C)
    expected = torch.nn.functional.gelu(y).permute(0, 2, 3, 1)
    exact = depthwise_gelu(pixels.double(), order, (H, W), weight.double(), bias.double(), "reference")
    torch.testing.assert_close(exact, expected, rtol=1e-13, atol=1e-13)
    found = depthwise_gelu(pixels, order, (H, W), weight, bias, "native")
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_orders_that_do_not_fit() -> None:
    x, weight, bias = torch.randn(6, 2), torch.randn(2, 1, 3, 3), torch.randn(2)
    with pytest.raises(IndexError, match="outside 0 to 5"):
        depthwise_gelu(x, torch.full((6,), 6), (2, 3), weight, bias)
    with pytest.raises(InputError, match="whole images of 2 x 2"):
        depthwise_gelu(x, torch.arange(6), (2, 2), weight, bias)
    with pytest.raises(InputError, match="expected \\[2, 1, K, K\\]"):
        depthwise_gelu(x, torch.arange(6), (2, 3), weight[:1], bias)
