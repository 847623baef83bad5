"""The gradients of window attention of bfloat16 by products of pairs, in the form for every processor."""

from __future__ import annotations

import math
import platform

import pytest
import torch
from torch import Tensor

from ops.kernel_cache import SOURCES
from ops.window.arguments import WindowBackward
from tests.ops.inputs import CASES, Case, make, run
from tests.ops.kernels import compiler, require_cpu_kernels
from utils.devices import CPU, native_precisions
from utils.programs import run_program

pytestmark = pytest.mark.build
# Several blocks of rows, the last of them not full; odd numbers of rows; keys that fill no vector; widths of networks.
LARGE = {
    "ragged": Case(images=2, windows=2, heads=2, queries=101, keys=300, width=7, value_width=20, mask=True),
    "hat": Case(images=1, windows=2, heads=2, queries=256, keys=256, width=30, value_width=30),
    "esc": Case(images=1, windows=1, heads=1, queries=96, keys=1024, width=16, value_width=16, bias=False),
    "wide": Case(images=1, windows=1, heads=2, queries=33, keys=64, width=70, value_width=66),
}
EVERY = {**CASES, **LARGE}


@pytest.fixture(autouse=True)
def kernels() -> None:
    require_cpu_kernels("window")


def arguments(case: Case) -> WindowBackward:
    i = make(case, torch.bfloat16)
    mask = i.mask.regions if case.regions else i.mask
    bias = None if i.bias is None else i.bias.detach()
    return WindowBackward(i.grad, i.q.detach(), i.k.detach(), i.v.detach(), bias, mask, 0.4, bias is not None)


def by_pairs(call: WindowBackward) -> list[Tensor]:
    """Gradients of q, k, v, and of the bias if there is one."""
    found = torch.ops.focalsr.window_attention_bf16_backward(*call)
    return list(found[: 3 + call.bias_gradient])


def expected(case: Case) -> list[Tensor]:
    return run(make(case, torch.bfloat16).to(torch.float64), "reference", 0.4)[1:]


@pytest.mark.parametrize("name", [*EVERY])
def test_they_are_those_of_attention(name: str) -> None:
    case = EVERY[name]
    for found, exact in zip(by_pairs(arguments(case)), expected(case), strict=True):
        assert found.shape == exact.shape
        assert (found - exact).square().mean().sqrt() < 0.004 * exact.square().mean().sqrt()
        torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=2**-7 * float(exact.abs().max()))


def test_gradients_have_the_type_of_their_operands() -> None:
    found = by_pairs(arguments(CASES["bias"]))
    assert [x.dtype for x in found] == 3 * [torch.bfloat16] + [torch.float32]
    assert all(x.transpose(1, 2).is_contiguous() for x in found[:3])


def test_sums_over_queries_are_float32() -> None:
    """Of 1024 numbers around 1, bfloat16 would add up no more than 256."""
    zeros = torch.zeros(1, 1, 1024, 4).bfloat16()
    one_key = zeros[:, :, :1]
    grad = (1 + torch.arange(1024) % 4 / 64).bfloat16().view(1, 1, 1024, 1).expand(1, 1, 1024, 4)
    call = WindowBackward(grad, zeros, one_key, one_key, None, None, 1.0, False)
    d_v = by_pairs(call)[2]
    assert torch.equal(d_v, torch.full((1, 1, 1, 4), 1024 + 24.0).bfloat16())


def test_weights_that_vanish_have_no_gradient() -> None:
    """What is hidden, and what is far below the rest, gives zeros rather than numbers that processors are slow with."""
    call = arguments(CASES["mask"])
    assert call.mask is not None
    call.mask[:, :, 3] = -math.inf
    call.mask[:, :, 5] = -100
    _, d_k, d_v = by_pairs(call)
    for key in (3, 5):
        assert not d_k[:, :, key].any()
        assert not d_v[:, :, key].any()
    assert d_v[:, :, 4].all()


def test_what_is_no_number_stays_in_its_window() -> None:
    call = arguments(CASES["bias"])
    call.q[1, 0, 2, 0] = math.nan
    d_q, d_k, d_v, d_bias = by_pairs(call)
    assert d_q[1, 0, 2].isnan().all()
    assert not d_q[1, 0, 3].isnan().any()
    assert d_v[1, 0].isnan().all()
    assert not torch.stack([d_k[0], d_v[0]]).isnan().any()
    assert d_bias.isnan().sum() == d_bias[0, 2].numel()


def test_threads_and_strides_do_not_matter() -> None:
    call = arguments(LARGE["ragged"])
    first = by_pairs(call)
    turned = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in call[:4]]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            others = by_pairs(WindowBackward._make((*turned, *call[4:])))
            assert all(torch.equal(a, b) for a, b in zip(first, others, strict=True))
    finally:
        torch.set_num_threads(before)


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.focalsr.window_attention_bf16_backward, tuple(arguments(CASES["regions"])))


def test_training_takes_them_where_the_processor_has_the_products() -> None:
    case = LARGE["hat"]
    found = run(make(case, torch.bfloat16), "native", 0.4)[1:]
    same = all(torch.equal(a, b) for a, b in zip(found, by_pairs(arguments(case)), strict=True))
    assert same == ("bf16" in native_precisions(CPU))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of x86")
@pytest.mark.parametrize("processor", ["cooperlake", "sapphirerapids"])
def test_pairs_of_vectors_compile_for_processors_with_the_products(processor: str) -> None:
    program = """#include "bf16.h"
        void run(const unsigned short* a, const unsigned* b, float* c) {
          using namespace focalsr::bf16;
          const Multiplier multiplier;
          multiplier.product(a, 32, b, 32, c, 32, 32, 32, multiplier.padded(9), true);
          store(static_cast<void*>(c), paired(load(c), load(c + 16)));
        }"""
    command = [compiler(), f"-march={processor}", "-std=c++20", "-x", "c++", "-c", "-o", "/dev/null"]
    if run_program([*command, "-"], given=b"int a;", limit=60).code != 0:
        pytest.skip(f"the compiler does not know {processor}")
    done = run_program([*command, f"-I{SOURCES}", "-"], given=program.encode(), limit=60)
    assert done.code == 0, done.err
