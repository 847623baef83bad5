"""Sparse matrix products: every backend against loops and recorded outputs, and the rules of the public functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ops
from ops import build
from ops.registry import ENVIRONMENT
from ops.sparse import native as smm_native
from ops.sparse import reference as smm_reference
from ops.sparse.arguments import Amv, Qmk
from tests.ops.kernels import require_cpu_kernels, require_tracing
from utils.errors import InputError

OPERATORS = {"qmk": ops.smm_qmk, "amv": ops.smm_amv}
# Relative to the largest value; half precision rounds the result once, from the same inputs.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 5e-3, torch.float16: 6e-4}
native = pytest.mark.build
both = pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=native)])
operators = pytest.mark.parametrize("name", OPERATORS)


class Sizes(NamedTuple):
    B: int = 3
    N: int = 20
    M: int = 20
    K: int = 7
    C: int = 13


SIZES = {
    "plain": Sizes(),
    "one slot": Sizes(K=1, C=40),
    "all keys": Sizes(N=12, M=12, K=12, C=26),
    "more keys": Sizes(N=9, M=31, K=17, C=3),
    "more slots than keys": Sizes(B=1, N=11, M=5, K=19, C=8),
    "wide": Sizes(B=2, N=6, M=9, K=8, C=200),
    "one key": Sizes(B=1, N=4, M=1, K=3, C=1),
}


class Inputs(NamedTuple):
    """Operands of one call: x is q or attn, y is k_t or v."""

    x: Tensor
    y: Tensor
    lists: Tensor
    grad: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        return Inputs(
            self.x.detach().to(dtype).requires_grad_(),
            self.y.detach().to(dtype).requires_grad_(),
            self.lists,
            self.grad.to(dtype),
        )


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture(autouse=True)
def needs_kernels(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("build"):
        require_cpu_kernels("smm")


def make(name: str, sizes: Sizes, dtype: torch.dtype = torch.float64, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    B, N, M, K, C = sizes
    index = torch.randint(M, (B, N, K), generator=generator, dtype=torch.int32)
    if name == "qmk":
        return Inputs(random(B, N, C), random(B, C, M), index, random(B, N, K)).to(dtype)
    return Inputs(random(B, N, K), random(B, M, C), index, random(B, N, C)).to(dtype)


def run(name: str, inputs: Inputs, backend: str) -> list[Tensor]:
    """The result, then the gradients of both operands."""
    out = OPERATORS[name](inputs.x, inputs.y, inputs.lists, backend)
    return [out.detach(), *torch.autograd.grad(out, (inputs.x, inputs.y), inputs.grad)]


def loops(name: str, inputs: Inputs) -> list[Tensor]:
    """The formulas, one listed key at a time."""
    x, y, index, grad = (tensor.detach() for tensor in inputs)
    index = index.long()
    out, d_x, d_y = torch.zeros_like(grad), torch.zeros_like(x), torch.zeros_like(y)
    for b, n, k in np.ndindex(*index.shape):
        key = index[b, n, k]
        if name == "qmk":
            out[b, n, k] = x[b, n] @ y[b, :, key]
            d_x[b, n] += grad[b, n, k] * y[b, :, key]
            d_y[b, :, key] += grad[b, n, k] * x[b, n]
        else:
            out[b, n] += x[b, n, k] * y[b, key]
            d_x[b, n, k] = grad[b, n] @ y[b, key]
            d_y[b, key] += x[b, n, k] * grad[b, n]
    return [out, d_x, d_y]


def assert_close(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        largest = float(theirs.abs().max()) if theirs.numel() else 1.0
        torch.testing.assert_close(ours.to(theirs), theirs, rtol=0, atol=tolerance * max(1.0, largest))


@operators
@both
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_values_and_gradients(name: str, backend: str, sizes: Sizes) -> None:
    inputs = make(name, sizes)
    assert_close(run(name, inputs, backend), loops(name, inputs), 1e-13)


@operators
@both
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("index_type", [torch.int16, torch.int32, torch.int64], ids=str)
def test_types(name: str, backend: str, dtype: torch.dtype, index_type: torch.dtype) -> None:
    inputs = make(name, Sizes(C=40), dtype)
    inputs = inputs._replace(lists=inputs.lists.to(index_type))
    got = run(name, inputs, backend)
    assert [x.dtype for x in got] == [dtype] * 3
    assert_close(got, run(name, inputs.to(torch.float64), "reference"), TOLERANCE[dtype])


CASES = ("basic", "k1_c13_hot", "full", "rectangular_repeat", "light_head", "classical_head_hot")


@pytest.mark.shared
@operators
@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_recorded_cases(shared: Path, name: str, backend: str, case: str, dtype: torch.dtype) -> None:
    recorded = np.load(shared / "golden" / "smm" / f"{name}_{case}.npz")
    facts = json.loads((shared / "golden" / "smm" / f"{name}_{case}.json").read_text())
    x, y, index, grad = (torch.from_numpy(recorded[key]) for key in ("A", "B", "index", "grad_output"))
    got = run(name, Inputs(x, y, index, grad).to(dtype), backend)
    tolerance = facts["rtol"] if dtype == torch.float64 else 1e-5
    for ours, key in zip(got, ("output", "grad_A", "grad_B"), strict=True):
        theirs = torch.from_numpy(recorded[key])
        assert float((ours.double() - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


sizes_drawn = st.builds(
    Sizes,
    B=st.integers(0, 5),
    N=st.integers(0, 40),
    M=st.integers(1, 70),
    K=st.integers(0, 33),
    C=st.one_of(st.integers(0, 90), st.sampled_from([13, 26, 39, 40, 80, 120])),
)


@native
@operators
@settings(max_examples=60)
@given(sizes=sizes_drawn, index_type=st.sampled_from([torch.int16, torch.int32, torch.int64]), seed=st.integers(0, 9))
def test_native_is_the_reference(name: str, sizes: Sizes, index_type: torch.dtype, seed: int) -> None:
    inputs = make(name, sizes, seed=seed)
    inputs = inputs._replace(lists=inputs.lists.to(index_type))
    assert_close(run(name, inputs, "native"), run(name, inputs, "reference"), 1e-13)


@native
@operators
@given(data=st.data())
@settings(max_examples=40)
def test_any_layout(name: str, data: st.DataObject) -> None:
    """Operands, lists and gradients transposed, strided, expanded over the batch, starting anywhere."""
    inputs = make(name, Sizes(B=4, N=10, M=18, K=8, C=16), data.draw(st.sampled_from([torch.float32, torch.bfloat16])))
    expected = run(name, inputs, "native")

    def relaid(x: Tensor) -> Tensor:
        x = x.detach()
        order = data.draw(st.permutations(range(3)))
        wider = torch.zeros([2 * x.shape[i] + 1 for i in order], dtype=x.dtype)
        view = wider[tuple(slice(1, None, 2) for _ in order)]
        inverse = [order.index(i) for i in range(3)]
        return view.copy_(x.permute(order)).permute(inverse)

    x, y, index, grad = (relaid(tensor) for tensor in inputs)
    moved = Inputs(x.requires_grad_(), y.requires_grad_(), index, grad)
    got = run(name, moved, "native")
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    one = inputs.lists[:1].expand(4, -1, -1)
    out = OPERATORS[name](inputs.x, inputs.y, one, "native")
    assert torch.equal(out, OPERATORS[name](inputs.x, inputs.y, one.contiguous(), "native"))


@native
@operators
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_bits_depend_on_nothing_else(name: str, batch: int) -> None:
    """Two runs, and any number of threads, also where one batch item is shared by several of them."""
    inputs = make(name, Sizes(B=batch, N=257, M=96, K=24, C=13), torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(run(name, inputs, "native"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@native
def test_equal_keys_score_equally_in_every_slot() -> None:
    """Otherwise ties would be broken by the place in the list."""
    q, key = torch.randn(1, 1, 29), torch.randn(1, 29, 1)
    out = ops.smm_qmk(q, key.expand(1, 29, 13).contiguous(), torch.arange(13)[None, None], "native")
    assert len(out.unique()) == 1


@operators
@both
def test_gradcheck(name: str, backend: str) -> None:
    inputs = make(name, Sizes(B=2, N=4, M=5, K=3, C=5))
    for index in (inputs.lists, torch.zeros_like(inputs.lists)):
        for wanted in ((True, True), (True, False), (False, True)):
            x, y = (v.detach().requires_grad_(w) for v, w in zip(inputs[:2], wanted, strict=True))
            assert torch.autograd.gradcheck(lambda x, y, i=index: OPERATORS[name](x, y, i, backend), (x, y))


@native
@operators
def test_opcheck(name: str) -> None:
    for sizes in (Sizes(), Sizes(B=0), Sizes(K=1, C=8)):
        i = make(name, sizes, torch.float32)
        forward = getattr(torch.ops.focalsr, f"smm_{name}").default
        torch.library.opcheck(forward, i[:3])
        backward = getattr(torch.ops.focalsr, f"smm_{name}_backward").default
        for wanted in ((True, True), (True, False), (False, True)):
            args = (i.grad, i.x.detach(), i.y.detach(), i.lists, *wanted)
            torch.library.opcheck(backward, args, test_utils=("test_schema", "test_faketensor"))


class Pair(torch.nn.Module):
    """Scores, softmax, sums: the sparse half of an attention layer."""

    def __init__(self, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend

    def forward(self, q: Tensor, k: Tensor, v: Tensor, index: Tensor) -> Tensor:
        weights = ops.smm_qmk(q, k.mT, index, self.backend).softmax(-1)
        return ops.smm_amv(weights, v, index, self.backend)


def layer_inputs(batch: int = 2, tokens: int = 12, slots: int = 5, width: int = 6) -> tuple[Tensor, ...]:
    q, k, v = (torch.randn(batch, tokens, width) for _ in range(3))
    return q, k, v, torch.randint(tokens, (batch, tokens, slots), dtype=torch.int32)


@both
def test_compiles_without_graph_breaks(backend: str) -> None:
    require_tracing(backend)
    torch.compiler.reset()
    q, k, v, index = layer_inputs()
    leaves = [x.requires_grad_() for x in (q, k, v)]
    pair = Pair(backend)
    compiled = torch.compile(pair, fullgraph=True, backend="aot_eager")
    out, expected = compiled(q, k, v, index), pair(q, k, v, index)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    got, wanted = (torch.autograd.grad((y * weight).sum(), leaves) for y in (out, expected))
    torch.testing.assert_close(got, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        out = compiled(q, k, v, index)
        torch.testing.assert_close(out, pair(q, k, v, index))
    assert out.dtype == torch.bfloat16


@native
def test_compiling_is_the_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are loaded while a graph is traced."""
    torch.compiler.reset()
    build.ask_again()
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)  # they are loaded already, and cannot be twice
    inputs = layer_inputs()
    torch.testing.assert_close(torch.compile(Pair(), fullgraph=True, backend="aot_eager")(*inputs), Pair()(*inputs))
    assert len(loaded) == 1


def test_exports_a_program_that_runs_without_kernels() -> None:
    batch, slots = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("slots", min=2, max=64)
    sizes = {"q": {0: batch}, "k": {0: batch}, "v": {0: batch}, "index": {0: batch, 2: slots}}
    program = torch.export.export(Pair(), layer_inputs(), dynamic_shapes=sizes)
    assert not [node for node in program.graph.nodes if "focalsr" in str(node.target)]
    other = layer_inputs(batch=5, slots=9)
    torch.testing.assert_close(program.module()(*other), Pair()(*other))


@operators
@both
def test_autocast(name: str, backend: str) -> None:
    inputs = make(name, Sizes(), torch.float32)
    rounded = run(name, inputs.to(torch.bfloat16), backend)
    with torch.autocast("cpu", torch.bfloat16):
        out = OPERATORS[name](inputs.x, inputs.y, inputs.lists, backend)
    assert torch.equal(out, rounded[0])
    d_x, d_y = torch.autograd.grad(out, (inputs.x, inputs.y), inputs.grad.bfloat16())
    assert d_x.dtype == d_y.dtype == torch.float32
    assert torch.equal(d_x, rounded[1].float())


def test_flops_are_those_of_the_lists() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    sizes = Sizes(B=2, N=8, M=30, K=4, C=10)
    product = 2 * 2 * 8 * 4 * 10
    calls: dict[str, tuple[Callable[[Any], Tensor], type[Any]]] = {
        "qmk": (smm_native.native_qmk, Qmk),
        "amv": (smm_native.native_amv, Amv),
    }
    for name, (function, arguments) in calls.items():
        i = make(name, sizes)
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            x, y = (v.detach().to("meta").requires_grad_() for v in i[:2])
            out = function(arguments(x, y, i.lists.to("meta")))
            assert counter.get_total_flops() == product
            out.sum().backward()
        assert counter.get_total_flops() == 3 * product


@operators
@both
@pytest.mark.parametrize("entry", [-1, 20, 32767])
@pytest.mark.parametrize("index_type", [torch.int16, torch.int32, torch.int64], ids=str)
def test_entries_outside_are_found(name: str, backend: str, entry: int, index_type: torch.dtype) -> None:
    x, y, index, _ = make(name, Sizes())
    index = index.to(index_type)
    index[2, 19, 6] = entry
    with pytest.raises(InputError, match=rf"smm_{name}: index holds .*expected 0 to 19 for 20 keys") as caught:
        OPERATORS[name](x, y, index, backend)
    assert str(entry) in str(caught.value)


@native
@pytest.mark.parametrize("entry", [1 << 31, 1 << 32, -(1 << 32), (1 << 63) - 1])
def test_entries_beyond_32_bits_are_found(entry: int) -> None:
    x, y, index, _ = make("qmk", Sizes())
    index = index.long()
    index[0, 0, 0] = entry
    with pytest.raises(InputError, match="index holds"):
        ops.smm_qmk(x, y, index, "native")


@native
def test_the_largest_lists_of_each_type_are_read_as_they_are() -> None:
    for index_type, keys in ((torch.int16, 32768), (torch.int16, 40000), (torch.int32, 70000)):
        index = torch.tensor([0, 32767 if keys < 65536 else 69999, 5], dtype=index_type)[None, None]
        k = torch.arange(float(keys))[None, None]
        assert ops.smm_qmk(torch.ones(1, 1, 1), k, index, "native").flatten().tolist() == index.flatten().tolist()


WRONG: dict[str, tuple[Callable[[Inputs], object], str]] = {
    "dimensions": (lambda i: ops.smm_qmk(i.x[0], i.y, i.lists), r"q, k_t, index are \[20, 13\], .*three dimensions"),
    "batch": (lambda i: ops.smm_qmk(i.x, i.y[:1], i.lists), "expected 3 batch items each, and 20 queries"),
    "queries": (lambda i: ops.smm_qmk(i.x, i.y, i.lists[:, :4]), "20 queries in index"),
    "width": (lambda i: ops.smm_qmk(i.x[..., :4], i.y, i.lists), r"q is \[3, 20, 4\] and k_t \[3, 13, 20\]"),
    "slots": (lambda i: ops.smm_amv(i.x, i.y.mT, i.lists), r"attn is \[3, 20, 13\], expected the shape of index"),
    "types": (lambda i: ops.smm_qmk(i.x, i.y.float(), i.lists), "q is torch.float64 and k_t torch.float32"),
    "integers": (lambda i: ops.smm_qmk(i.x.int(), i.y.int(), i.lists), "q is torch.int32"),
    "index type": (lambda i: ops.smm_qmk(i.x, i.y, i.lists.bool()), "index is torch.bool, expected torch.int16"),
    "device": (lambda i: ops.smm_qmk(i.x, i.y, i.lists.to("meta")), "index is on meta, expected cpu, where q is"),
    "backend": (lambda i: ops.smm_qmk(i.x, i.y, i.lists, "fast"), "no backend 'fast'; expected one of auto, native"),
    "no keys": (lambda i: ops.smm_qmk(i.x, i.y[..., :0], i.lists), "expected 0 to -1 for 0 keys|no keys to list"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_arguments_that_do_not_fit_raise_with_their_values(wrong: str) -> None:
    call, message = WRONG[wrong]
    with pytest.raises(InputError, match=message):
        call(make("qmk", Sizes()))


def test_the_reference_bounds_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OPERATORS:
        inputs = make(name, Sizes(B=5))
        expected = run(name, inputs, "reference")
        monkeypatch.setattr(smm_reference, "CHUNK", 2 * 20 * 20)
        assert_close(run(name, inputs, "reference"), expected, 1e-13)
        monkeypatch.undo()
