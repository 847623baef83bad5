"""pointwise_soft_pool and importance_gate_: the compiled kernels against the definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from archs.layers.pooling import soft_pool2d
from ops import importance_gate_, pointwise_soft_pool
from tests.ops.kernels import require_cpu_kernels
from utils.errors import InputError


@pytest.fixture(scope="module")
def kernels() -> None:
    require_cpu_kernels("importance")


def features(B: int, C: int, H: int, W: int) -> Tensor:
    """The first channels of a wider channels-last map."""
    generator = torch.Generator().manual_seed(C)
    return torch.randn(B, C + 2, H, W, generator=generator).contiguous(memory_format=torch.channels_last)[:, :C]


def layer(C: int, F: int, scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(F)
    return scale * torch.randn(F, C, generator=generator) / C**0.5, torch.randn(F, generator=generator)


def test_reference_is_soft_pooling_of_a_convolution() -> None:
    x, (weight, bias) = features(2, 5, 16, 13).double(), (tensor.double() for tensor in layer(5, 3, 1))
    y = torch.einsum("fc,bchw->bfhw", weight, x) + bias[:, None, None]
    expected = soft_pool2d(y, 7, 3)
    torch.testing.assert_close(pointwise_soft_pool(x, weight, bias, side=7, step=3), expected, rtol=1e-12, atol=1e-12)


# Values whose exponentials are no numbers of float32 among those that are, ragged channels, one window, two bands.
@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("scale", [1, 40, 1000])
@pytest.mark.parametrize(("shape", "F"), [((2, 13, 37, 23), 16), ((1, 8, 7, 7), 3), ((1, 3, 10, 40), 20)])
def test_pooling_equals_the_reference(shape: tuple[int, int, int, int], F: int, scale: float) -> None:
    x, (weight, bias) = features(*shape), layer(shape[1], F, scale)
    x[:, :, : shape[2] // 2] *= 0.01  # rows of both kinds in one window
    expected = pointwise_soft_pool(x.double(), weight.double(), bias.double(), side=7, step=3)
    found = pointwise_soft_pool(x, weight, bias, side=7, step=3, backend="native")
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", [(2, 13, 9, 11), (1, 8, 1, 1), (1, 1, 5, 3)])
def test_gate_equals_the_reference(shape: tuple[int, int, int, int]) -> None:
    x = features(*shape)
    for size, logits in (((2, 3), False), ((1, 1), False), (shape[2:], False), (shape[2:], True)):
        coarse = 3 * torch.rand(*shape[:2], *size) - 1
        expected = importance_gate_(x.double(), coarse.double(), logits=logits)
        inside = x.clone(memory_format=torch.preserve_format)
        wide = torch.zeros(shape[0], shape[1] + 3, *shape[2:]).contiguous(memory_format=torch.channels_last)
        for found in (wide[:, : shape[1]].copy_(x), x.contiguous(), inside):
            assert importance_gate_(found, coarse, logits=logits, backend="native") is found
            torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6)
        assert not wide[:, shape[1] :].any()


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_bfloat16_is_rounded_once() -> None:
    x, (weight, bias) = features(2, 13, 20, 23).bfloat16(), (tensor.bfloat16() for tensor in layer(13, 5, 1))
    pooled = pointwise_soft_pool(x, weight, bias, side=7, step=3, backend="native")
    exact = pointwise_soft_pool(x.float(), weight.float(), bias.float(), side=7, step=3, backend="native")
    assert torch.equal(pooled, exact.bfloat16())
    coarse = torch.rand(2, 13, 4, 5).bfloat16()
    gated = importance_gate_(x.float(), coarse.float(), backend="native").bfloat16()
    difference = (importance_gate_(x.clone(), coarse, backend="native").float() - gated.float()).abs()
    assert (difference <= 2**-8 * gated.float().abs()).all()  # sums in another order may round to the neighbour


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_kernels_depend_neither_on_threads_nor_on_the_batch() -> None:
    x, (weight, bias) = features(2, 9, 60, 20), layer(9, 5, 1)
    whole = pointwise_soft_pool(x, weight, bias, side=7, step=3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        parts = [pointwise_soft_pool(one, weight, bias, side=7, step=3) for one in x.split(1)]
        assert torch.equal(torch.cat(parts), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_operators_are_registered_soundly() -> None:
    x, (weight, bias) = features(1, 4, 9, 8), layer(4, 3, 1)
    torch.library.opcheck(torch.ops.focalsr.pointwise_soft_pool.default, (x, weight, bias, 7, 3))
    coarse = torch.rand(1, 4, 2, 2).contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(torch.ops.focalsr.importance_gate.default, (x, coarse, False))


def test_what_is_refused() -> None:
    x, (weight, bias) = features(1, 4, 6, 8), layer(4, 3, 1)
    with pytest.raises(InputError, match="no smaller than a window"):
        pointwise_soft_pool(x, weight, bias, side=7, step=3)
    with pytest.raises(InputError, match="as many images and channels"):
        importance_gate_(x, x[:, :3])
