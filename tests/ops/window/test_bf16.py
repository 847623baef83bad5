"""Window attention of bfloat16 by products of pairs, in the form for every processor; and the pieces it is made of."""

from __future__ import annotations

import ctypes
import math
import platform

import pytest
import torch
from torch import Tensor

from ops.kernel_cache import SOURCES
from ops.window.arguments import WindowArguments
from ops.window.native import native_attention
from ops.window.reference import reference_attention
from tests.ops.emulation import Guarded, emulated
from tests.ops.inputs import CASES, Case, make
from tests.ops.kernels import compiler, require_cpu_kernels
from utils.devices import CPU, native_precisions
from utils.programs import run_program

pytestmark = pytest.mark.build
# Several blocks of rows, the last of them not full; keys that fill no vector; widths of HAT and ESC.
LARGE = {
    "ragged": Case(images=2, windows=2, heads=2, queries=100, keys=300, width=7, value_width=20, mask=True),
    "hat": Case(images=1, windows=2, heads=2, queries=64, keys=256, width=30, value_width=30),
    "esc": Case(images=1, windows=1, heads=1, queries=48, keys=1024, width=16, value_width=16, bias=False),
    "wide": Case(images=1, windows=1, heads=2, queries=32, keys=64, width=70, value_width=66),
}


@pytest.fixture
def kernels() -> None:
    require_cpu_kernels("window")


def arguments(case: Case) -> WindowArguments:
    inputs = make(case, torch.bfloat16)
    mask = inputs.mask.regions if case.regions else inputs.mask
    bias = None if inputs.bias is None else inputs.bias.detach()
    return WindowArguments(inputs.q.detach(), inputs.k.detach(), inputs.v.detach(), bias, mask, 0.4)


def by_pairs(call: WindowArguments) -> Tensor:
    out: Tensor = torch.ops.focalsr.window_attention_bf16(*call)
    return out


def exact(call: WindowArguments) -> Tensor:
    bias, mask = (x.double() if x is not None and x.is_floating_point() else x for x in (call.bias, call.mask))
    return reference_attention(
        WindowArguments(call.q.double(), call.k.double(), call.v.double(), bias, mask, call.scale)
    )


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", [*CASES, *LARGE])
def test_it_is_attention(name: str) -> None:
    call = arguments({**CASES, **LARGE}[name])
    found, expected = by_pairs(call), exact(call)
    assert found.dtype == torch.bfloat16
    # Weights and results are rounded to 8 bits, one after the other.
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=2**-9 * float(call.v.abs().max()))
    assert (found - expected).square().mean().sqrt() < 0.003 * expected.square().mean().sqrt()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", ["bias", "regions", "ragged", "hat"])
def test_the_bias_may_be_bfloat16_too(name: str) -> None:
    call = arguments({**CASES, **LARGE}[name])
    assert call.bias is not None
    narrow = call._replace(bias=call.bias.bfloat16())
    wide = call._replace(bias=call.bias.bfloat16().float())
    assert torch.equal(by_pairs(narrow), by_pairs(wide))
    assert torch.equal(native_attention(narrow), native_attention(wide))


@pytest.mark.usefixtures("kernels")
def test_one_key_gives_its_value() -> None:
    call = arguments(Case(keys=1, value_width=19))
    assert torch.equal(by_pairs(call), call.v.expand(-1, -1, 12, -1))


@pytest.mark.usefixtures("kernels")
def test_sums_are_float32() -> None:
    """Of 1024 numbers around 1, bfloat16 would add up no more than 256."""
    v = 1 + torch.arange(1024) % 4 / 64  # the mean is 1 + 3 / 128
    call = WindowArguments(
        torch.zeros(1, 1, 8, 4).bfloat16(), torch.ones(1, 1, 1024, 4).bfloat16(), v.bfloat16().view(1, 1, 1024, 1),
        None, None, 1.0,
    )  # fmt: skip
    assert torch.equal(by_pairs(call), torch.full((1, 1, 8, 1), 1 + 3 / 128).bfloat16())


@pytest.mark.usefixtures("kernels")
def test_what_is_hidden_and_what_is_no_number() -> None:
    call = arguments(CASES["mask"])
    assert call.mask is not None
    call.mask[:, :, 3] = -math.inf
    torch.testing.assert_close(by_pairs(call).double(), exact(call), rtol=2**-7, atol=2**-7)
    call.q[1, 0, 2, 0] = math.nan
    rows = by_pairs(call).isnan().all(-1)
    assert rows.sum() == 1
    assert rows[1, 0, 2]


@pytest.mark.usefixtures("kernels")
def test_strides_and_threads_do_not_matter() -> None:
    call = arguments(LARGE["ragged"])
    expected = by_pairs(call)
    q, k, v = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in (call.q, call.k, call.v))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(by_pairs(call), expected)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(by_pairs(WindowArguments(q, k, v, call.bias, call.mask, call.scale)), expected)


@pytest.mark.usefixtures("kernels")
def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.focalsr.window_attention_bf16, tuple(arguments(CASES["regions"])))


@pytest.mark.usefixtures("kernels")
def test_native_attention_takes_it_where_the_processor_has_the_products() -> None:
    call = arguments(LARGE["hat"])
    same = torch.equal(native_attention(call), by_pairs(call))
    assert same == ("bf16" in native_precisions(CPU))


def pointer(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


@pytest.mark.parametrize("add", [0, 1], ids=["fresh", "added"])
@pytest.mark.parametrize("tiles", [0, 1], ids=["vectors", "tiles"])
@pytest.mark.parametrize(
    ("terms", "rows", "columns", "pairs"), [(1, 16, 16, 16), (1, 48, 80, 32), (1, 32, 32, 48), (3, 48, 48, 16)]
)
def test_products(add: int, tiles: int, terms: int, rows: int, columns: int, pairs: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    a = torch.randn(terms, rows, 2 * pairs, generator=generator).bfloat16()
    b = torch.randn(terms, 2 * pairs, columns, generator=generator).bfloat16()
    packed = b.view(terms, pairs, 2, columns).transpose(2, 3).contiguous()  # [terms, pairs, columns, 2]
    start = torch.randn(rows, columns, generator=generator)
    c = Guarded(start)
    emulated("bf16").product(
        tiles, ctypes.c_int64(terms), pointer(a), ctypes.c_int64(2 * pairs), pointer(packed), ctypes.c_int64(columns),
        c.pointer(), *map(ctypes.c_int64, (columns, rows, columns, pairs)), add,
    )  # fmt: skip
    expected = (a.double() @ b.double()).sum(0) + add * start.double()
    torch.testing.assert_close(c.taken().double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of x86")
@pytest.mark.parametrize("processor", ["cooperlake", "sapphirerapids"])
def test_instructions_compile_here_too(processor: str) -> None:
    program = """#include "bf16.h"
        void run(const unsigned short* a, const unsigned* b, float* c) {
          using namespace focalsr::bf16;
          const Multiplier multiplier;
          multiplier.product(a, 32, b, 32, c, 32, 32, 32, multiplier.padded(9));
          static_assert(kNative);
          store(static_cast<void*>(c), rounded(power_of_two(load(c)), load(c)));
        }"""
    command = [compiler(), f"-march={processor}", "-std=c++20", "-x", "c++", "-c", "-o", "/dev/null"]
    if run_program([*command, "-"], given=b"int a;", limit=60).code != 0:
        pytest.skip(f"the compiler does not know {processor}")
    done = run_program([*command, f"-I{SOURCES}", "-"], given=program.encode(), limit=60)
    assert done.code == 0, done.err


def test_rounding_is_that_of_torch() -> None:
    halfway = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, math.inf, -math.inf, math.nan, -0.0, 1e-40])
    x = torch.cat([halfway, torch.randn(56, generator=torch.Generator().manual_seed(0))])
    found = torch.empty(64, dtype=torch.bfloat16)
    emulated("bf16").round_values(pointer(x), ctypes.c_int64(64), pointer(found))
    torch.testing.assert_close(found, x.bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_powers_of_two() -> None:
    x = torch.linspace(-124, 0, 4096)
    found = torch.empty_like(x)
    emulated("bf16").powers_of_two(pointer(x), ctypes.c_int64(4096), pointer(found))
    torch.testing.assert_close(found.double(), x.double().exp2(), rtol=1 / 13000, atol=0)
    low = torch.tensor([-math.inf, -1e30, math.nan, 0.0]).repeat(4)
    emulated("bf16").powers_of_two(pointer(low), ctypes.c_int64(16), pointer(found))
    assert found[0] < 1e-37
    assert found[1] < 1e-37
    assert found[2].isnan()
