"""Focused attention: every backend against the published formulas, and the rules of the public function."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ops
from ops import FocusState, build, focused_attention
from ops.focused import composed as focus_composed
from ops.focused.arguments import FocusCall
from ops.focused.attention import FOCUSED_ATTENTION
from ops.focused.composed import largest
from ops.focused.reference import dense_bias
from ops.focused.table import position_index
from ops.registry import ENVIRONMENT
from tests.ops.kernels import require_cpu_kernels, require_tracing
from utils.errors import InputError

NATIVE = pytest.param("native", marks=pytest.mark.build)
fast = pytest.mark.parametrize("backend", ["composed", NATIVE])
every = pytest.mark.parametrize("backend", ["reference", "composed", NATIVE])


@dataclass(frozen=True)
class Chain:
    """Layers of equal windows, one after the other."""

    window: int = 4
    heads: int = 2
    width: int = 5
    topk: tuple[int, ...] = (16, 16, 8, 8, 3)
    columns: int = 2  # of the bias tables
    regions: bool = False
    images: int = 2


CHAINS = {
    "dense thrice": Chain(topk=(16, 20, 16)),
    "selects, keeps, selects": Chain(),
    "regions, one table": Chain(topk=(16, 6, 6, 1), columns=1, width=13, regions=True),
    "tiles and rests": Chain(window=6, heads=1, width=40, topk=(36, 36, 36, 17, 17, 9), columns=1, regions=True),
    "one key from the first layer": Chain(window=5, heads=3, width=8, topk=(1, 1), columns=3),
    "longer lists asked for": Chain(window=7, width=26, topk=(49, 20, 49, 10, 10, 30), regions=True),
    "sums begin with biases": Chain(window=8, topk=(64, 64, 20, 20, 7), columns=1, regions=True, images=1),
    "a window of one": Chain(window=1, topk=(1, 1), width=3),
    "no window": Chain(images=0),
}


@dataclass(frozen=True)
class Layer:
    """Operands of one layer; ``grad`` is the gradient of its result."""

    qkv: Tensor
    table: Tensor
    grad: Tensor


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture(autouse=True)
def needs_kernels(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("build"):
        require_cpu_kernels("focus_select")
        require_cpu_kernels("focus_sparse")


def make(chain: Chain, dtype: torch.dtype = torch.float64) -> list[Layer]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    windows, tokens = 2 * chain.images, chain.window**2
    wide = torch.promote_types(dtype, torch.float32)
    return [
        Layer(
            random(windows, tokens, 3, chain.heads, chain.width),
            random((2 * chain.window - 1) ** 2, chain.columns, dtype=wide),
            random(windows, chain.heads, tokens, chain.width).detach(),
        )
        for _ in chain.topk
    ]


def regions_of(chain: Chain) -> Tensor | None:
    """Two windows of an image, the second in two regions."""
    if not chain.regions:
        return None
    regions = torch.zeros(2, chain.window**2, dtype=torch.uint8)
    regions[1, chain.window**2 // 2 :] = 1
    return regions


def through(
    chain: Chain, layers: list[Layer], backend: str, *, disposable: bool = False
) -> tuple[list[Tensor], list[FocusState]]:
    """Results and states of all layers."""
    state, outs, states = None, [], []
    for topk, layer in zip(chain.topk, layers, strict=True):
        q, k, v = layer.qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out, state = focused_attention(
            q, k, v, layer.table, state, window=chain.window, topk=topk, regions=regions_of(chain), backend=backend
        )
        outs.append(out)
        states.append(state)
        state = replace(state, disposable=disposable)
    return outs, states


def run(chain: Chain, layers: list[Layer], backend: str) -> list[Tensor]:
    """The results, then the gradients of all queries, keys, values and tables."""
    outs, _ = through(chain, layers, backend)
    loss = sum((out * layer.grad).sum() for out, layer in zip(outs, layers, strict=True))
    assert isinstance(loss, Tensor)
    leaves = [x for layer in layers for x in (layer.qkv, layer.table)]
    return [*(out.detach() for out in outs), *torch.autograd.grad(loss, leaves)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        largest = float(theirs.detach().abs().max()) if theirs.numel() else 1.0
        torch.testing.assert_close(ours.to(theirs), theirs, rtol=0, atol=tolerance * max(1.0, largest))


def test_the_reference_multiplies_maps() -> None:
    chain = Chain(images=1, heads=1, topk=(16, 16, 4, 2), columns=1)
    layers = make(chain)
    outs, _ = through(chain, layers, "reference")
    outs = [out.detach() for out in outs]
    layers = [Layer(layer.qkv.detach(), layer.table.detach(), layer.grad) for layer in layers]
    for query in range(16):
        weights, kept = torch.ones(2, 16, dtype=torch.float64), torch.ones(2, 16, dtype=torch.bool)
        for topk, layer, out in zip(chain.topk, layers, outs, strict=True):
            q, k, v = (layer.qkv[:, :, i, 0] for i in range(3))
            rows = [(query // 4 - j // 4 + 3) * 7 + query % 4 - j % 4 + 3 for j in range(16)]
            bias = layer.table[rows, 0]
            logits = (k @ q[:, query, :, None])[..., 0] * 5**-0.5 + bias
            weights = weights * logits.masked_fill(~kept, -torch.inf).softmax(-1)
            weights = weights / weights.sum(-1, keepdim=True)
            kept = weights >= weights.sort(-1, descending=True).values[:, topk - 1 : topk]
            weights = weights * kept
            assert_close([out[:, 0, query]], [(weights[:, None] @ v)[:, 0]], 1e-13)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@fast
def test_values_and_gradients(chain: Chain, backend: str) -> None:
    layers = make(chain)
    assert_close(run(chain, layers, backend), run(chain, layers, "reference"), 1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@fast
def test_float32_and_half_precision(backend: str, dtype: torch.dtype, tolerance: float) -> None:
    chain = Chain(topk=(16, 16, 16), regions=True)  # no selection, which may go another way between close candidates
    expected = run(chain, make(chain, dtype), "reference")
    found = run(chain, make(chain, dtype), backend)
    assert found[0].dtype == dtype
    assert_close(found, [x.double() for x in expected], tolerance)
    chain = Chain(topk=(16, 8, 8, 4))
    layers = make(chain, dtype)
    _, states = through(chain, layers, backend)
    assert states[-1].logits is not None
    assert states[-1].logits.dtype is torch.float32
    # Equal states in, so that both choose the same.
    listed, q = states[1], layers[2].qkv.permute(2, 0, 3, 1, 4)
    options: dict[str, Any] = {"window": 4, "topk": 4}
    out, after = focused_attention(q[0], q[1], q[2], layers[2].table, listed, **options, backend=backend)
    wide = [x.double() for x in q]
    assert listed.logits is not None
    exact = FocusState(logits=listed.logits.double(), index=listed.index)
    expected_out, exact_after = focused_attention(
        wide[0], wide[1], wide[2], layers[2].table.double(), exact, **options, backend="composed"
    )
    assert_close([out], [expected_out], tolerance)
    assert after.index is not None
    assert exact_after.index is not None
    assert torch.equal(after.index, exact_after.index)


@pytest.mark.build
def test_float32_kernels_at_published_sizes() -> None:
    chain = Chain(window=32, heads=1, width=13, topk=(1024, 256, 128), columns=1, regions=True, images=1)
    layers = make(chain, torch.float32)
    for found, expected in zip(run(chain, layers, "native"), run(chain, layers, "composed"), strict=True):
        # Here and there two candidates are so close that rounding decides.
        assert (found - expected).abs().mean() < 1e-4 * expected.abs().mean()


@fast
def test_lists_are_ascending_and_of_equal_keys_the_first_stay(backend: str) -> None:
    q = torch.zeros(1, 1, 16, 2)
    table = torch.zeros(49, 1)
    _, state = focused_attention(q, q, q, table, window=4, topk=5, backend=backend)
    assert state.index is not None
    assert state.index.dtype is torch.int16
    assert (state.index == torch.arange(5)).all()
    _, state = focused_attention(q, q, q, table, state, window=4, topk=3, backend=backend)
    assert state.index is not None
    assert (state.index == torch.arange(3)).all()
    chain = Chain(window=6, topk=(36, 17, 9))
    for state in through(chain, make(chain), backend)[1][1:]:
        assert state.index is not None
        assert (state.index.diff(dim=-1) > 0).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.data())
def test_largest_is_a_stable_sort(numbers: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(numbers)))
    x = torch.tensor(numbers).float()
    expected = x.sort(descending=True, stable=True).indices[:count].sort().values
    assert torch.equal(largest(x[None], count)[0], expected)


@pytest.mark.build
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 3), st.integers(1, 20), st.integers(1, 80), st.sampled_from([0, 1, 1000]),
    st.sampled_from([torch.float32, torch.float64]), st.integers(0, 1 << 30),
)  # fmt: skip
def test_kernels_choose_as_composed_ones_do(
    window: int, heads: int, width: int, topk: int, levels: int, dtype: torch.dtype, seed: int
) -> None:
    """Whole numbers, so that logits are exact; few levels make many ties."""
    generator = torch.Generator().manual_seed(seed)
    states = {}
    shape = (2, heads, window**2, width)
    q, k, v = (torch.randint(-levels, levels + 1, shape, generator=generator).to(dtype) for _ in range(3))
    table = torch.randint(-levels, levels + 1, ((2 * window - 1) ** 2, 1), generator=generator).to(dtype)
    for backend in ("composed", "native"):
        state = None
        for kept in (topk, max(1, topk // 2)):
            options: dict[str, Any] = {"window": window, "topk": kept, "scale": 1.0, "backend": backend}
            out, state = focused_attention(q, k, v, table, state, **options)
        assert state is not None
        states[backend] = (state.index, state.logits, out)
    for found, expected in zip(states["native"], states["composed"], strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected)


@every
def test_states_are_left_alone_and_lists_that_do_not_shrink_are_handed_on(backend: str) -> None:
    chain = Chain(topk=(16, 8, 8, 4))
    layers = make(chain)
    _, states = through(chain, layers, backend)
    kept = [{name: x.clone() for name, x in vars(state).items() if isinstance(x, Tensor)} for state in states]
    through(chain, layers, backend)
    run(chain, layers, backend)
    for state, before in zip(states, kept, strict=True):
        assert all(torch.equal(getattr(state, name), x) for name, x in before.items())
    if backend == "native":
        assert states[2].index is states[1].index


@pytest.mark.build
def test_threads_and_runs_change_nothing() -> None:
    chain = Chain(window=8, heads=3, width=13, topk=(64, 64, 24, 24, 10), columns=1, regions=True)
    layers = make(chain, torch.float32)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2, 3, 1):
        torch.set_num_threads(count)
        found.append(run(chain, layers, "native"))
    torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


@pytest.mark.build
def test_gradcheck() -> None:
    chain = Chain(window=2, heads=1, width=2, topk=(4, 3, 3, 2), columns=1, regions=True, images=1)
    layers = make(chain)

    def function(*leaves: Tensor) -> tuple[Tensor, ...]:
        pairs = [Layer(leaves[i], leaves[i + 1], torch.empty(0)) for i in range(0, len(leaves), 2)]
        outs, states = through(chain, pairs, "native")
        logits = states[-1].logits
        assert logits is not None
        # Logits are handed on up to a constant of each query.
        return (*outs, logits - logits.mean(-1, keepdim=True))

    leaves = [x for layer in layers for x in (layer.qkv, layer.table)]
    assert torch.autograd.gradcheck(function, leaves)


def select_arguments(topk: int = 3) -> tuple[Any, ...]:
    layer = make(Chain(), torch.float32)[0]
    q, k, v = layer.qkv.detach().permute(2, 0, 3, 1, 4).unbind(0)
    return (*(x.requires_grad_() for x in (q, k, v, layer.table.detach())), regions_of(Chain(regions=True)), 4, topk)


def sparse_arguments(topk: int) -> tuple[Any, ...]:
    q, k, v, table, regions, window, _ = select_arguments()
    _, logits, index, _ = torch.ops.focalsr.focus_select(q, k, v, table, regions, window, 6)
    return q, k, v, table, logits.detach().requires_grad_(), index, window, topk, 0.5


@pytest.mark.build
@pytest.mark.parametrize("topk", [3, 6])
def test_opcheck(topk: int) -> None:
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.focalsr.focus_select, select_arguments(topk), test_utils=tests)
    torch.library.opcheck(torch.ops.focalsr.focus_sparse, sparse_arguments(topk), test_utils=tests)


@pytest.mark.build
@pytest.mark.parametrize("topk", [3, 6])
@pytest.mark.parametrize("grad_logits", [False, True])
def test_opcheck_backward(topk: int, grad_logits: bool) -> None:
    tests = ("test_schema", "test_faketensor")
    q, k, v, table, regions, window, _ = (x.detach() if isinstance(x, Tensor) else x for x in select_arguments())
    out, logits, index, log_sum = torch.ops.focalsr.focus_select(q, k, v, table, regions, window, topk)
    operands: tuple[Any, ...] = (out, logits if grad_logits else None, q, k, v, table, regions, index, log_sum, window)
    torch.library.opcheck(torch.ops.focalsr.focus_select_backward, operands, test_utils=tests)
    q, k, v, table, logits, index, *_ = (x.detach() if isinstance(x, Tensor) else x for x in sparse_arguments(topk))
    out, after, kept, log_sum = torch.ops.focalsr.focus_sparse(q, k, v, table, logits, index, window, topk, 0.5)
    lists = (logits, index, kept) if topk < 6 else (after, index, None)
    operands = (out, after if grad_logits else None, q, k, v, table, *lists, log_sum, window, 0.5)
    torch.library.opcheck(torch.ops.focalsr.focus_sparse_backward, operands, test_utils=tests)


class Layers(nn.Module):
    """Three layers: all keys, some keys, listed keys; x [W, N, C] -> [W, N, C]."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.qkv = nn.ModuleList(nn.Linear(8, 24) for _ in range(3))
        self.tables = nn.ParameterList(torch.randn(25, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for topk, qkv, table in zip((9, 4, 2), self.qkv, self.tables, strict=True):
            q, k, v = qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
            out, state = focused_attention(q, k, v, table, state, window=3, topk=topk, backend=self.backend)
            x = x + out.transpose(1, 2).flatten(2)
        return x


@every
def test_compiles_as_one_graph(backend: str) -> None:
    require_tracing(backend)
    torch.compiler.reset()
    torch.manual_seed(0)
    network = Layers(backend)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 9, 8, requires_grad=True)
    leaves = [x, *network.parameters()]
    out, expected = compiled(x), network(x)
    torch.testing.assert_close(out, expected)
    found, wanted = (torch.autograd.grad(y.square().sum(), leaves) for y in (out, expected))
    torch.testing.assert_close(found, wanted)


def test_exported_programs_need_nothing_from_here() -> None:
    torch.manual_seed(0)
    network = Layers("auto").eval()
    with torch.no_grad():
        sizes = {"x": {0: torch.export.Dim("windows", max=64)}}
        program = torch.export.export(network, (torch.randn(4, 9, 8),), dynamic_shapes=sizes)
        for windows in (4, 1, 7):
            x = torch.randn(windows, 9, 8)
            torch.testing.assert_close(program.module()(x), network(x))
    assert not [node for node in program.graph.nodes if "focalsr" in str(node.target)]


@every
def test_autocast_takes_half_precision_and_hands_on_float32(backend: str) -> None:
    chain = Chain(topk=(16, 8, 4))
    layers = make(chain, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        outs, states = through(chain, layers, backend)
        torch.stack(outs).float().sum().backward()
    assert all(out.dtype is torch.bfloat16 for out in outs)
    last = states[-1].weights if backend == "reference" else states[-1].logits
    assert last is not None
    assert last.dtype is torch.float32
    assert all(layer.qkv.grad is not None and layer.qkv.grad.isfinite().all() for layer in layers)


def test_composed_a_few_windows_at_a_time_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(topk=(16, 8, 4), regions=True, images=3)
    layers = make(chain)
    expected = run(chain, layers, "reference")
    monkeypatch.setattr(focus_composed, "ELEMENTS", 16 * 16 * 2 * 4)  # four windows of six at a time
    assert_close(run(chain, layers, "composed"), expected, 1e-13)
    with torch.no_grad():
        assert_close(through(chain, layers, "composed")[0], expected[: len(layers)], 1e-13)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (FocusCall("cuda", length=512), "none here"),
        (FocusCall("cuda", length=513), "lists of at most 512 keys, and these have 513"),
        (FocusCall("cuda", sparse=False, length=1024), "none here"),
        (FocusCall("cuda", sparse=False, length=1025), "among at most 1024 tokens, and a window has 1025"),
        (FocusCall("cuda", dtype=torch.float64), "know no torch.float64"),
        (FocusCall("mps"), "kernels for cpu and cuda only; on mps, where"),
    ],
)
def test_what_cuda_kernels_take(call: FocusCall, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def none_here(part: str) -> str:
        asked.append(part)
        return "none here"

    monkeypatch.setattr(build, "cuda_extension", none_here)
    with pytest.raises(InputError, match=reason):
        FOCUSED_ATTENTION.choose(call, "native")
    monkeypatch.setattr(build, "cuda_extension", lambda part: None)
    assert FOCUSED_ATTENTION.choose(call).name == ("native" if asked else "composed")
    needed = "focus_sparse" if call.sparse else "focus_select"
    assert asked == ([needed] if reason == "none here" else [])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["auto", "composed"])
def test_gpu_is_the_reference_and_repeatable(backend: str) -> None:
    chain = Chain(window=6, heads=1, width=40, topk=(20, 20, 17, 9), columns=1, regions=True)
    layers = [
        Layer(*(x.detach().cuda().requires_grad_() for x in vars(y).values())) for y in make(chain, torch.float32)
    ]
    regions = regions_of(chain)
    assert regions is not None

    def once() -> list[Tensor]:
        state, loss = None, torch.zeros((), device="cuda")
        for topk, layer in zip(chain.topk, layers, strict=True):
            q, k, v = layer.qkv.permute(2, 0, 3, 1, 4).unbind(0)
            out, state = focused_attention(
                q, k, v, layer.table, state, window=6, topk=topk, regions=regions.cuda(), backend=backend
            )
            loss = loss + (out * layer.grad).sum()
        return list(torch.autograd.grad(loss, [x for y in layers for x in (y.qkv, y.table)]))

    found = once()
    expected = run(chain, make(chain, torch.float32), "reference")[len(layers) :]
    assert_close([x.cpu() for x in found], expected, 1e-4)
    assert all(torch.equal(a, b) for a, b in zip(found, once(), strict=True))


def test_dense_bias_is_the_published_index() -> None:
    assert position_index(3, torch.device("cpu")) is position_index(3, torch.device("cpu"))
    table = torch.arange(25.0)[:, None]
    expected = [[(y - v + 2) * 5 + x - u + 2 for v in range(3) for u in range(3)] for y in range(3) for x in range(3)]
    assert dense_bias(table, 3)[0].tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(2, 1, 9)}, r"q, k, v are \[2, 1, 9\]"),
        ({"v": torch.zeros(2, 1, 9, 4)}, r"expected the same"),
        ({"k": torch.zeros(2, 1, 9, 3, dtype=torch.float64)}, "expected one floating-point type"),
        ({"window": 4}, "windows of 4 x 4 have not 9 tokens"),
        ({"topk": 0}, "topk must be at least 1, got 0"),
        ({"table": torch.zeros(25, 2)}, r"the table is \[25, 2\] of torch.float32, expected floating-point \[25, 1\]"),
        ({"regions": torch.zeros(2, 8, dtype=torch.uint8)}, r"regions are \[2, 8\]"),
        ({"regions": torch.zeros(3, 9, dtype=torch.uint8)}, "2 windows cannot be images of 3 windows"),
        ({"table": torch.zeros(25, 1, device="meta")}, "the table is on meta, expected cpu"),
        ({"state": FocusState(weights=torch.zeros(3, 1, 9, 9))}, r"the state belongs to \[3, 1, 9\]"),
        ({"state": FocusState(weights=torch.zeros(2, 1, 9, 9)), "backend": "composed"}, "a state of the reference"),
        ({"state": FocusState(torch.zeros(2, 1, 9, 3)), "backend": "reference"}, "from a state of another backend"),
        ({"backend": "fast"}, "there is no backend 'fast'"),
    ],
)
def test_arguments_that_do_not_fit_raise_with_their_values(changes: dict[str, Any], message: str) -> None:
    q = torch.zeros(2, 1, 9, 3)
    arguments = {"q": q, "k": q, "v": q, "table": torch.zeros(25, 1), "window": 3, "topk": 4, **changes}
    with pytest.raises(InputError, match=message):
        focused_attention(**arguments)


@pytest.mark.build
@pytest.mark.parametrize("key", [-1, 16, 400])
def test_lists_with_impossible_keys_are_refused(key: int) -> None:
    q, k, v, table, logits, index, *rest = sparse_arguments(6)
    index[1, 0, 3, 2] = key
    with pytest.raises(IndexError, match="keys outside 0 to 15"):
        torch.ops.focalsr.focus_sparse(q, k, v, table, logits, index, *rest)


def test_the_environment_chooses_and_the_reference_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(topk=(16, 8, 4))
    monkeypatch.setenv(ENVIRONMENT, "reference")
    layers = make(chain)
    _, states = through(chain, layers, "auto")
    assert all(state.weights is not None for state in states)
    monkeypatch.delenv(ENVIRONMENT)
    q, k, v = layers[0].qkv.permute(2, 0, 3, 1, 4).unbind(0)
    assert focused_attention(q, k, v, layers[0].table, states[0], window=4, topk=4)[1].weights is not None
    assert "focused_attention" in str(ops.explain())


@fast
def test_the_order_of_weights_below_the_published_epsilon_is_kept(backend: str) -> None:
    """Two layers whose logits rise key by key: all weights but the largest are far below 1e-20."""
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    logits = 60.0 * order.to(torch.float64)
    q = torch.ones(1, 1, 16, 1, dtype=torch.float64)
    k = logits[None, None, :, None]
    v = torch.eye(16, dtype=torch.float64)[None, None]
    table = torch.zeros(49, 1, dtype=torch.float64)

    def kept(name: str) -> set[int]:
        state = None
        for topk in (16, 6):
            # The values are as wide as queries and keys have to be: the rest of those is 0.
            wide_q, wide_k = (torch.nn.functional.pad(x, (0, 15)) for x in (q, k))
            _, state = focused_attention(wide_q, wide_k, v, table, state, window=4, topk=topk, scale=1.0, backend=name)
        assert state is not None
        assert state.index is not None
        assert (state.index == state.index[..., :1, :]).all()  # every query sees the same logits
        return {int(key) for key in state.index[0, 0, 0]}

    strongest = set(order.argsort(descending=True)[:6].tolist())
    assert kept(backend) == strongest
    assert kept("reference") != strongest  # as published: of equal ones, any
