"""conv3x3: the compiled kernel against the definition."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ops import Memo, build, conv3x3
from ops.convolution import conv3x3 as module
from ops.convolution.conv3x3 import MOST_CHANNELS, Conv3x3Arguments, by_matrices
from tests.ops.kernels import require_cpu_kernels
from utils.errors import InputError


@pytest.fixture(scope="module")
def kernels() -> None:
    require_cpu_kernels("conv3x3")


def inputs(B: int, C: int, K: int, H: int, W: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, bias in float32; x is the first channels of a wider channels-last map."""
    generator = torch.Generator().manual_seed(C * K)
    x = torch.randn(B, C + 3, H, W, generator=generator).contiguous(memory_format=torch.channels_last)[:, :C]
    return x, torch.randn(K, C, 3, 3, generator=generator) / (3 * C**0.5), torch.randn(K, generator=generator)


def test_reference_is_convolution_then_activation_then_shuffle() -> None:
    x, weight, bias = (tensor.double() for tensor in inputs(2, 3, 8, 5, 4))
    y = F.conv2d(F.pad(x, (1, 1, 1, 1)), weight, bias)
    expected = F.pixel_shuffle(torch.where(y < 0, 0.1 * y, y), 2)
    assert torch.allclose(conv3x3(x, weight, bias, slope=0.1, shuffle=2, backend="reference"), expected, rtol=1e-13)


# Fewer channels than a vector, several panels, ragged panels and vectors, tiles that leave the image, several groups.
@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("sizes", "slope", "shuffle"),
    [((2, 3, 67, 9, 11), 1.0, 1), ((1, 40, 33, 22, 30), 0.05, 1), ((2, 67, 48, 13, 6), 1.0, 4),
     ((1, 5, 12, 1, 1), 0.0, 2), ((1, 16, 18, 7, 3), 0.2, 3), ((1, 1, 1, 4, 4), 1.0, 1)],
)  # fmt: skip
def test_kernel_equals_the_reference(sizes: tuple[int, int, int, int, int], slope: float, shuffle: int) -> None:
    x, weight, bias = inputs(*sizes)
    compute = functools.partial(conv3x3, slope=slope, shuffle=shuffle)
    for offset in (bias, None):
        wide = None if offset is None else offset.double()
        expected = compute(x.double(), weight.double(), wide, backend="reference")
        found = compute(x, weight, offset, backend="native")
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 3e-6 * expected.abs().max()
        assert torch.equal(compute(x.contiguous(), weight, offset, backend="native"), found)


# Several groups of tiles, more channels in than out and the other way round, tiles that leave the image.
@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sizes", [(2, 3, 35, 9, 11), (1, 20, 6, 101, 95), (2, 5, 12, 1, 1), (1, 48, 48, 22, 30)])
def test_gradients_equal_those_of_the_reference(sizes: tuple[int, int, int, int, int]) -> None:
    tensors = inputs(*sizes)
    grad = torch.randn(sizes[0], sizes[2], *sizes[3:], generator=torch.Generator().manual_seed(1))
    found, again, expected = (
        gradients_of([tensor.to(dtype) for tensor in tensors], grad.to(dtype), backend)
        for dtype, backend in ((torch.float32, "native"), (torch.float32, "native"), (torch.float64, "reference"))
    )
    for ours, same, exact in zip(found, again, expected, strict=True):
        assert torch.equal(ours, same)
        assert (ours - exact).abs().max() <= 4e-6 * exact.abs().max()


def gradients_of(tensors: list[Tensor], grad: Tensor, backend: str) -> tuple[Tensor, ...]:
    """Those of x, weight and bias."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    out = conv3x3(leaves[0], leaves[1], leaves[2], slope=0.5, backend=backend)
    return torch.autograd.grad(out, leaves, grad)


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shuffle", [1, 2])
def test_bfloat16_is_rounded_once(shuffle: int) -> None:
    x, weight, bias = (tensor.bfloat16() for tensor in inputs(2, 19, 20, 9, 10))
    exact = conv3x3(x.float(), weight.float(), bias.float(), slope=0.1, shuffle=shuffle, backend="native")
    found = conv3x3(x, weight, bias, slope=0.1, shuffle=shuffle, backend="native")
    assert torch.equal(found, exact.bfloat16())


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_rounding_errors_are_near_those_of_a_direct_sum() -> None:
    x, weight, bias = inputs(1, 64, 64, 32, 32)
    exact = conv3x3(x.double(), weight.double(), bias.double(), backend="reference")
    direct, ours = (
        (conv3x3(x, weight, bias, backend=backend) - exact).square().mean() for backend in ("reference", "native")
    )
    assert ours <= 9 * direct  # three times the error: with the points 0, 1, -1, 2, -2 it would be four to five


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_kernel_depends_neither_on_threads_nor_on_the_batch() -> None:
    x, weight, bias = inputs(3, 20, 24, 31, 33)
    whole = conv3x3(x, weight, bias, backend="native")
    assert torch.equal(torch.cat([conv3x3(one, weight, bias, backend="native") for one in x.split(1)]), whole)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(conv3x3(x, weight, bias, backend="native"), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_result_goes_where_it_is_asked_for() -> None:
    x, weight, bias = inputs(2, 8, 6, 5, 7)
    wide = torch.zeros(2, 9, 5, 7).contiguous(memory_format=torch.channels_last)
    found = conv3x3(x, weight, bias, out=wide[:, :6], backend="native")
    assert found.data_ptr() == wide.data_ptr()
    assert torch.equal(found, conv3x3(x, weight, bias, backend="native"))
    assert not wide[:, 6:].any()
    assert torch.allclose(conv3x3(x, weight, bias, out=torch.empty(2, 6, 5, 7), backend="reference"), found, atol=1e-5)


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_a_memo_follows_the_weights() -> None:
    x, weight, bias = inputs(1, 8, 6, 5, 7)
    memo = Memo()
    conv3x3(x, weight, bias, memo=memo)
    weight.mul_(2)
    assert torch.equal(conv3x3(x, weight, bias, memo=memo), conv3x3(x, weight, bias))


def test_what_the_kernel_refuses() -> None:
    x, weight, bias = inputs(1, 4, 4, 3, 3)
    with pytest.raises(InputError, match="no backward pass"):
        conv3x3(x.bfloat16(), weight.bfloat16().requires_grad_(), bias.bfloat16(), backend="native")
    with pytest.raises(InputError, match="float32 and bfloat16 alone"):
        conv3x3(x.double(), weight.detach().double(), bias.double(), backend="native")
    with pytest.raises(InputError, match=r"\[K, C, 3, 3\]"):
        conv3x3(x, weight[:, :3])
    with pytest.raises(InputError, match="expected \\[1, 4, 3, 3\\]"):
        conv3x3(x, weight, out=x[:, :, :2])


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_operator_is_registered_soundly_and_counted() -> None:
    x, weight, bias = inputs(1, 3, 8, 4, 5)
    arguments = (x, torch.ops.focalsr.conv3x3_weight(weight, False), bias, 0.1, 2, torch.empty(1, 2, 8, 10))
    torch.library.opcheck(torch.ops.focalsr.conv3x3_out.default, arguments)
    for turned in (False, True):
        torch.library.opcheck(torch.ops.focalsr.conv3x3_weight.default, (weight, turned))
    for transform in (torch.ops.focalsr.conv3x3_tiles, torch.ops.focalsr.conv3x3_gradient_tiles):
        torch.library.opcheck(transform.default, (x, 1, 1), test_utils="test_schema")
    counts, memo = [], Memo()
    conv3x3(x, weight, bias, memo=memo)
    for backend in ("native", "reference"):
        with FlopCounterMode(display=False) as counter:
            conv3x3(x, weight, bias, shuffle=2, memo=memo, backend=backend)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 9 * 3 * 8 * 20


# Fewer channels than a pair of vectors, an odd number, several blocks down and across, ragged panels of results.
@pytest.mark.build
@pytest.mark.parametrize(
    ("sizes", "slope", "shuffle"),
    [((2, 3, 18, 9, 11), 0.05, 1), ((1, 40, 33, 19, 70), 1.0, 1), ((2, 67, 48, 3, 130), 0.2, 4),
     ((1, 5, 12, 1, 1), 0.0, 2), ((1, 32, 64, 8, 64), 1.0, 1), ((1, 1, 1, 4, 4), 1.0, 1)],
)  # fmt: skip
def test_products_of_matrices_are_the_convolution(
    sizes: tuple[int, int, int, int, int], slope: float, shuffle: int
) -> None:
    require_cpu_kernels("conv3x3_bf16")
    x, weight, bias = (tensor.bfloat16() for tensor in inputs(*sizes))
    B, _, K, H, W = sizes
    for offset in (bias, None):
        compute = functools.partial(conv3x3, slope=slope, shuffle=shuffle, backend="reference")
        expected = compute(x.double(), weight.double(), None if offset is None else offset.double())
        wide = torch.full((B, K // shuffle**2 + 2, H * shuffle, W * shuffle), 7.0, dtype=torch.bfloat16)
        if shuffle == 1:
            wide = wide.contiguous(memory_format=torch.channels_last)
        out = wide[:, : K // shuffle**2]
        arguments = Conv3x3Arguments(x, weight, offset, slope, shuffle, out, Memo())
        assert by_matrices(arguments) is out
        assert (out - expected).abs().max() <= 2**-8 * expected.abs().max()
        assert bool((wide[:, K // shuffle**2 :] == 7).all()), "what lies beside the results was written to"
        rounded = (out == expected.bfloat16()).double().mean()
        assert rounded > 0.98, "sums are rounded more than once"
        alone = torch.empty_like(out[:1])
        by_matrices(arguments._replace(x=x[:1].contiguous(), out=alone))
        assert torch.equal(alone, out[:1])


def test_the_processor_and_the_channels_choose_between_ways_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16), torch.zeros(4, 4, 3, 3, dtype=torch.bfloat16)
    used: list[str] = []
    monkeypatch.setattr(build, "cpu_extension", lambda part: used.append(part))
    monkeypatch.setattr(module, "by_matrices", lambda arguments: arguments.out.fill_(3))
    monkeypatch.setattr(module, "multiplies_matrices", lambda: True)
    assert bool((conv3x3(x, weight) == 3).all())
    assert set(used) == {"conv3x3_bf16"}
    wide = torch.zeros(MOST_CHANNELS + 1, 4, 3, 3, dtype=torch.bfloat16)
    assert not conv3x3(x, wide).any()
    used.clear()
    assert not conv3x3(x.float(), weight.float()).any()
    assert set(used) <= {"conv3x3"}
