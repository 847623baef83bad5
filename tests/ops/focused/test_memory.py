"""What focused attention keeps, makes and leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from ops.focused import composed as focus_composed
from ops.focused.composed import largest
from tests.ops.focused.test_attention import Chain, assert_close, fast, make, run, through
from tests.ops.kernels import require_cpu_kernels


@pytest.fixture(autouse=True)
def needs_kernels(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("build"):
        require_cpu_kernels("focus_select")
        require_cpu_kernels("focus_sparse")


def kept_elements(function: Callable[[], Any]) -> dict[int, int]:
    """Elements of the storages that the graph of a call keeps."""
    found: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes() // x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        function()
    return found


@fast
def test_no_map_is_kept_for_the_backward_pass(backend: str) -> None:
    chain = Chain(window=12, heads=2, width=4, topk=(40, 20, 20), images=2)
    layers = make(chain, torch.float32)
    kept = kept_elements(lambda: through(chain, layers, backend))
    rows = 4 * 2 * 144
    assert max(kept.values()) < rows * 144 // 3
    if backend == "native":
        # Logits and lists of three layers, log-sums, what the layers were given, and joined queries of the first.
        lists = 2 * rows * (40 + 20 + 20) + 3 * rows
        assert sum(kept.values()) <= lists + sum(x.qkv.numel() + x.table.numel() for x in layers) + 2 * rows * 4


class Made(TorchDispatchMode):
    """Notes the largest result of an operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        for x in results if isinstance(results, (tuple, list)) else (results,):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return results


@pytest.mark.build
@pytest.mark.parametrize(
    ("topk", "columns"), [((20, 20, 10, 4), 20), ((144, 144, 144), 3 * 4)], ids=["lists", "all keys"]
)
def test_no_map_of_queries_and_keys_is_made(topk: tuple[int, ...], columns: int) -> None:
    """Neither forward nor backward; the largest are lists, or queries, keys and values themselves."""
    chain = Chain(window=12, heads=1, width=4, topk=topk, columns=1, regions=True, images=2)
    layers = make(chain, torch.float32)
    expected = run(chain, layers, "composed")  # and fills caches of constants
    with Made() as made:
        assert_close(run(chain, layers, "native"), expected, 3e-6)
    assert made.elements == 4 * 144 * columns


@pytest.mark.build
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("width", [5, 13])
def test_disposable_states_are_overwritten(dtype: torch.dtype, width: int) -> None:
    """The same bits in the memory of the first list, by layers that keep it and by layers that shorten it."""
    chain = Chain(topk=(16, 11, 11, 8, 8, 3), width=width, regions=True)
    layers = make(chain, dtype)
    with torch.no_grad():
        expected, states = through(chain, layers, "native")
        found, reused = through(chain, layers, "native", disposable=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for name in ("logits", "index"):
        last, first = getattr(reused[-1], name), getattr(reused[1], name)
        assert torch.equal(last, getattr(states[-1], name))
        assert last.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        assert len({getattr(state, name).untyped_storage().data_ptr() for state in states[1:]}) > 2


@pytest.mark.build
def test_states_whose_gradients_are_wanted_are_not_overwritten() -> None:
    chain = Chain(topk=(8, 8, 4))
    layers = make(chain)
    outs, states = through(chain, layers, "native", disposable=True)
    assert all(torch.equal(a, b) for a, b in zip(outs, through(chain, layers, "native")[0], strict=True))
    assert states[1].logits is not None
    assert states[1].logits.requires_grad


@fast
def test_nothing_is_selected_where_the_list_stays(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(topk=(8, 8, 8))
    layers = make(chain)
    asked: list[int] = []

    def noted(x: Tensor, count: int) -> Tensor:
        asked.append(count)
        return largest(x, count)

    monkeypatch.setattr(focus_composed, "largest", noted)
    states = through(chain, layers, backend)[1]
    assert asked == ([8] if backend == "composed" else [])
    first = states[0].index
    assert first is not None
    assert all(state.index is not None and torch.equal(state.index, first) for state in states)


@fast
def test_checkpointed_layers_have_the_same_gradients(backend: str) -> None:
    """Activation checkpointing computes layers again, and lets a gradient unpack what it saved once."""
    chain = Chain(topk=(16, 8, 8, 4))
    layers = make(chain)
    expected = run(chain, layers, backend)[len(layers) :]
    outs = checkpoint(lambda: through(chain, layers, backend)[0], use_reentrant=False)
    loss = sum((out * layer.grad).sum() for out, layer in zip(outs, layers, strict=True))
    assert isinstance(loss, Tensor)
    found = torch.autograd.grad(loss, [x for layer in layers for x in (layer.qkv, layer.table)])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
