"""Layers of focused attention that keep all keys: which backend runs them, and what it runs."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ops import FocusState, RegionMask, build, focused_attention, window_attention
from ops.focused.arguments import FocusCall
from ops.focused.attention import FOCUSED_ATTENTION
from ops.focused.table import expanded_bias
from ops.registry import ENVIRONMENT
from tests.ops.focused.test_attention import Chain, assert_close, make, regions_of, run, through
from tests.ops.kernels import require_cpu_kernels
from utils.errors import InputError

ALL_KEYS = Chain(topk=(16, 20, 16), regions=True)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def operators_that_run(backend: str) -> set[str]:
    """The operators of this project behind layers that keep all keys."""
    with FlopCounterMode(display=False) as counter:
        run(ALL_KEYS, make(ALL_KEYS), backend)
    counts = counter.get_flop_counts()["Global"]
    return {str(operator).partition(".")[2] for operator in counts if str(operator).startswith("focalsr.")}


def test_auto_takes_joined_for_layers_that_keep_all_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "cpu_extension", lambda part: "none here")
    assert FOCUSED_ATTENTION.choose(FocusCall("cpu", selects=False, sparse=False)).name == "joined"
    for call in (FocusCall("cpu", sparse=False), FocusCall("cpu", selects=False), FocusCall("cpu")):
        assert FOCUSED_ATTENTION.choose(call).name == "composed"
        with pytest.raises(InputError, match="the layer selects keys or has lists of them"):
            FOCUSED_ATTENTION.choose(call, "joined")


def test_joined_is_window_attention_with_queries_and_keys_side_by_side() -> None:
    layers = make(ALL_KEYS)
    outs, states = through(ALL_KEYS, layers, "joined")
    tokens = [layer.qkv.permute(2, 0, 3, 1, 4) for layer in layers]
    q = torch.cat([x[0] for x in tokens], -1) * ALL_KEYS.width**-0.5
    k = torch.cat([x[1] for x in tokens], -1)
    bias = expanded_bias(layers[0].table + layers[1].table + layers[2].table, ALL_KEYS.window, ALL_KEYS.heads)
    regions = regions_of(ALL_KEYS)
    assert regions is not None
    expected = window_attention(q, k, tokens[2][2], bias, RegionMask(regions), 1.0)
    torch.testing.assert_close(outs[2], expected)
    assert states[2].q is not None
    torch.testing.assert_close(states[2].q, q)
    assert_close(run(ALL_KEYS, layers, "joined"), run(ALL_KEYS, layers, "reference"), 1e-13)


@pytest.mark.build
def test_native_has_gradients_from_the_table() -> None:
    require_cpu_kernels("window")
    require_cpu_kernels("focus_all")
    assert operators_that_run("native") == {"focus_all", "focus_all_backward"}


@pytest.mark.build
def test_the_operators_of_gradients_from_the_table_are_sound() -> None:
    require_cpu_kernels("window")
    require_cpu_kernels("focus_all")
    layer, regions = make(ALL_KEYS, torch.float32)[0], regions_of(ALL_KEYS)
    q, k, v = (x.detach().requires_grad_() for x in layer.qkv.permute(2, 0, 3, 1, 4).unbind(0))
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    operands = (q, k, v, layer.table.detach().requires_grad_(), regions, ALL_KEYS.window)
    torch.library.opcheck(torch.ops.focalsr.focus_all, operands, test_utils=tests)
    backward = (layer.grad, *(x.detach() for x in operands[:4]), regions, ALL_KEYS.window)
    torch.library.opcheck(torch.ops.focalsr.focus_all_backward, backward, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.build
@pytest.mark.parametrize("window", [6, 8])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_kernel_reads_biases_from_their_table(window: int, dtype: torch.dtype) -> None:
    require_cpu_kernels("focus_all")
    chain = Chain(window=window, heads=3, width=13, topk=(99, 99), columns=3, regions=True)
    layers = make(chain, dtype)
    expected, _ = through(chain, layers, "reference")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        found, states = through(chain, layers, "auto")
    assert [str(operator) for operator in counter.get_flop_counts()["Global"]] == ["focalsr.focus_all"]
    assert_close(found, expected, 1e-13 if dtype == torch.float64 else 3e-6)
    assert states[1].q is not None
    assert states[1].q.shape[-1] == 26


def test_composed_runs_pytorchs_operators_alone() -> None:
    assert operators_that_run("composed") == set()


def test_a_layer_that_selects_goes_on_from_the_state_of_joined() -> None:
    layers = make(Chain(topk=(16, 4)))
    states: list[FocusState] = []
    for topk, backend in ((16, "joined"), (4, "composed")):
        layer = layers[len(states)]
        q, k, v = layer.qkv.permute(2, 0, 3, 1, 4).unbind(0)
        before = states[-1] if states else None
        states.append(focused_attention(q, k, v, layer.table, before, window=4, topk=topk, backend=backend)[1])
    assert states[1].index is not None
    assert states[1].index.shape[-1] == 4
