"""The compiled kernels of window attention: registration, and what they keep and compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ops import window_attention
from tests.ops.inputs import CASES, Case, make, run
from tests.ops.kernels import require_cpu_kernels

pytestmark = pytest.mark.build
# Several blocks of rows per window, the last of them not full; keys that are no multiple of a vector.
BIG = Case(images=2, windows=6, heads=2, queries=100, keys=300, width=10, value_width=20)
MANY = Case(images=3, windows=12, heads=2, queries=16, keys=16, width=5, value_width=5, mask=True, regions=True)


@pytest.fixture(autouse=True)
def kernels() -> None:
    require_cpu_kernels("window")


def arguments(name: str, dtype: torch.dtype) -> tuple[object, ...]:
    i = make(CASES[name], dtype)
    mask = i.mask.regions if CASES[name].regions else i.mask
    return i.q, i.k, i.v, i.bias, mask, 0.5


@pytest.mark.parametrize("name", ["bias and mask", "plain", "narrow values", "regions", "more keys"])
def test_opcheck(name: str) -> None:
    torch.library.opcheck(torch.ops.focalsr.window_attention, arguments(name, torch.float32))


@pytest.mark.parametrize(
    ("name", "dtype", "bias_gradient"),
    [
        ("narrow values", torch.float32, True),
        ("regions", torch.bfloat16, True),
        ("more keys", torch.float32, False),
        ("plain", torch.float64, False),
    ],
)
def test_opcheck_backward(name: str, dtype: torch.dtype, bias_gradient: bool) -> None:
    *inputs, scale = arguments(name, dtype)
    inputs = [x.detach() if isinstance(x, Tensor) else x for x in inputs]
    call = (make(CASES[name], dtype).grad, *inputs, scale, bias_gradient)
    torch.library.opcheck(torch.ops.focalsr.window_attention_backward, call)


@pytest.mark.parametrize("case", [BIG, MANY], ids=["big", "many"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-6)], ids=str)
def test_large_windows(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    inputs = make(case, dtype)
    for got, expected in zip(run(inputs, "native"), run(inputs.to(torch.float64), "reference"), strict=True):
        torch.testing.assert_close(
            got.double(), expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max()))
        )


@pytest.mark.parametrize("case", [BIG, MANY], ids=["big", "many"])
def test_results_do_not_depend_on_the_number_of_threads(case: Case) -> None:
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results += [run(make(case, torch.float32), "native") for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_logits_far_apart_neither_overflow_nor_leave_weights() -> None:
    # The exponential: exact zeros far below, no overflow at large logits, and a weight of one where one key is left.
    bias = torch.tensor([0.0, -20.0, -86.9, -87.1, -104.0, -1e4, -torch.inf] + [-torch.inf] * 5)
    q = torch.zeros(1, 1, 3, 4)
    v = torch.eye(12)[None, None]
    shifts = torch.tensor([0.0, 3e4, -3e4])
    out = window_attention(q, torch.zeros(1, 1, 12, 4), v, (bias + shifts[:, None])[None], backend="native")[0, 0]
    expected = (bias.double() + shifts.double()[:, None]).softmax(-1)
    torch.testing.assert_close(out[0, :3].double(), expected[0, :3], rtol=3e-7, atol=0)
    assert not out[:, 3:].any()
    assert torch.allclose(out, out[0], rtol=1e-2, atol=1e-7)  # 3e4 - 20 is rounded in float32


def test_only_the_inputs_are_kept_for_the_backward_pass() -> None:
    i = make(BIG, torch.float32)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        window_attention(i.q, i.k, i.v, i.bias, i.mask, backend="native")
    assert sum(kept.values()) == sum(x.nbytes for x in i.leaves())


def test_flops_are_counted() -> None:
    i = make(BIG, torch.float32)
    with FlopCounterMode(display=False) as forward:
        out = window_attention(i.q, i.k, i.v, i.bias, backend="native")
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(out, i.leaves(), i.grad)
    assert forward.get_total_flops() == 2 * 12 * 2 * 100 * 300 * 30
    assert backward.get_total_flops() == 2 * 12 * 2 * 100 * 300 * (3 * 10 + 2 * 20)


def test_the_heads_of_a_token_lie_side_by_side() -> None:
    out, *_ = run(make(CASES["bias and mask"]), "native")
    assert out.transpose(1, 2).is_contiguous()
