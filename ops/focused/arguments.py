"""What a layer of focused attention is given, and what it hands on; and so for the operators of its kernels.

Shapes as in ops/focused/attention.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ops.registration import Written
from ops.registry import exporting
from ops.window.region_mask import is_regions
from utils.errors import InputError


@dataclass(frozen=True)
class FocusState:
    """What a layer hands on to the next one that looks at the same windows; None stands for "no layer yet".

    As long as every key is kept: queries, keys and tables of the layers so far. Then: lists and logits on them. The
    reference has weights in the place of all these, beside a list once there is one.

    Attributes:
        q: [W, h, N, S] the layers' queries side by side, multiplied by the scale.
        k: [W, h, N, S] their keys.
        table: [T, h or 1] the sum of their bias tables.
        logits: [W, h, N, K] sum of the layers' logits, minus a constant for each query; float32 at least.
        index: [W, h, N, K] the keys, ascending; int16, or int32 for more than 32767 tokens and in
            programs that are exported, perhaps in another order there. int64 in the reference.
        log_sum: [W, h, N] with which ``exp(logits - log_sum)`` are the weights of the layer; without a gradient.
        weights: [W, h, N, K or N] the reference's map.
        disposable: nobody else looks at this state: who is given it may overwrite its logits and lists. Where no
            gradient is wanted layers then need no memory for new ones.
    """

    q: Tensor | None = None
    k: Tensor | None = None
    table: Tensor | None = None
    logits: Tensor | None = None
    index: Tensor | None = None
    log_sum: Tensor | None = None
    weights: Tensor | None = None
    disposable: bool = False

    @property
    def tensor(self) -> Tensor:
        """One of the tensors, to read off windows, heads, tokens and device."""
        found = next(x for x in (self.q, self.logits, self.weights) if x is not None)
        assert found is not None
        return found


class FocusArguments(NamedTuple):
    """The arguments of :func:`ops.focused_attention` as they travel: what every backend is given."""

    q: Tensor  # [W, h, N, D]
    k: Tensor  # [W, h, N, D], type of q
    v: Tensor  # [W, h, N, D], type of q
    table: Tensor  # [T, h or 1]
    regions: Tensor | None  # [n, N] uint8
    window: int  # w
    topk: int  # keys that a query keeps, if it has more
    scale: float  # of the logits
    state: FocusState | None  # of the layer before


FocusFunction = Callable[[FocusArguments], tuple[Tensor, FocusState]]
"""A backend: the sum of values [W, h, N, D] in the type of q, and the state for the next layer."""


class Select(NamedTuple):
    """The arguments of ``focalsr::focus_select``."""

    q: Tensor  # [W, h, N, S], joined and scaled
    k: Tensor  # [W, h, N, S]
    v: Tensor  # [W, h, N, D]
    table: Tensor  # [T, h or 1], float32 at least
    regions: Tensor | None  # [n, N] uint8
    window: int
    topk: int  # K, below N


class SelectBackward(NamedTuple):
    """The arguments of its gradient."""

    grad: Tensor  # [W, h, N, D]
    grad_logits: Tensor | None  # [W, h, N, K]
    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor
    regions: Tensor | None
    lists: Tensor  # [W, h, N, K]
    log_sum: Tensor  # [W, h, N]
    window: int


class Sparse(NamedTuple):
    """The arguments of ``focalsr::focus_sparse``."""

    q: Tensor  # [W, h, N, D]
    k: Tensor  # [W, h, N, D]
    v: Tensor  # [W, h, N, D]
    table: Tensor  # [T, h or 1], type of the logits
    logits: Tensor  # [W, h, N, K]
    lists: Tensor  # [W, h, N, K]
    window: int
    topk: int
    scale: float


class SparseInPlace(NamedTuple):
    """The arguments of ``focalsr::focus_sparse_``: the same, of which logits and lists are overwritten.

    What a window's head keeps comes to lie at the beginning of its part of them. The results are values and log-sums.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor
    logits: Written
    lists: Written
    window: int
    topk: int
    scale: float


class SparseBackward(NamedTuple):
    """The arguments of its gradient; without ``new_lists`` the logits are those after the layer."""

    grad: Tensor  # [W, h, N, D]
    grad_logits: Tensor | None  # of the logits that are kept
    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor
    logits: Tensor
    lists: Tensor
    new_lists: Tensor | None  # the list after the layer, where it is shorter
    log_sum: Tensor
    window: int
    scale: float


class FocusCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    selects: bool = True
    sparse: bool = True
    dtype: torch.dtype = torch.float32
    length: int = 64  # keys that a query has before the layer


def call_of(arguments: FocusArguments) -> FocusCall:
    """What refusals look at."""
    q, state = arguments.q, arguments.state
    index = None if state is None else state.index
    length = q.shape[2] if index is None else index.shape[-1]
    return FocusCall(q.device.type, arguments.topk < length, sparse=index is not None, dtype=q.dtype, length=length)


def keeps_all(arguments: FocusArguments) -> bool:
    """Whether every query has all keys before the layer and after it."""
    call = call_of(arguments)
    return not (call.sparse or call.selects)


def joined(arguments: FocusArguments) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and table of all layers so far, this one included, while all keys are kept.

    Returns:
        q and k [W, h, N, S] with the scale in q, table [T, h or 1].
    """
    state = arguments.state
    q = arguments.q * arguments.scale
    if state is None:
        return q, arguments.k, arguments.table
    assert state.q is not None
    assert state.k is not None
    assert state.table is not None
    earlier_q, earlier_k = (x.to(q.dtype) for x in (state.q, state.k))  # a layer may compute in a type of its own
    return torch.cat([earlier_q, q], -1), torch.cat([earlier_k, arguments.k], -1), state.table + arguments.table


def list_dtype(tokens: int) -> torch.dtype:
    """The smallest type for lists of keys; few runtimes have 16 bits."""
    if exporting():
        return torch.int32
    return torch.int16 if tokens <= torch.iinfo(torch.int16).max + 1 else torch.int32


def check(arguments: FocusArguments) -> None:
    """Shapes, types and devices fit.

    Raises:
        InputError: with the values, and what was expected.
    """
    q, k, v, table, regions, window, topk, _, state = arguments
    if q.ndim != 4 or k.shape != q.shape or v.shape != q.shape:
        raise InputError(
            f"focused_attention: q, k, v are {list(q.shape)}, {list(k.shape)}, {list(v.shape)}, "
            "expected the same [windows, heads, tokens, width] thrice"
        )
    if not q.is_floating_point() or k.dtype != q.dtype or v.dtype != q.dtype:
        raise InputError(
            f"focused_attention: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}, expected one floating-point type"
        )
    windows, heads, tokens, _ = q.shape
    if window < 1 or tokens != window * window:
        raise InputError(f"focused_attention: windows of {window} x {window} have not {tokens} tokens, as q says")
    if topk < 1:
        raise InputError(f"focused_attention: topk must be at least 1, got {topk}")
    rows = (2 * window - 1) ** 2
    if table.ndim != 2 or table.shape[0] != rows or table.shape[1] not in (1, heads) or not table.is_floating_point():
        raise InputError(
            f"focused_attention: the table is {list(table.shape)} of {table.dtype}, expected floating-point "
            f"[{rows}, {heads}] or [{rows}, 1] for a window of {window} and {heads} heads"
        )
    others = {"k": k, "v": v, "the table": table}
    if regions is not None:
        others["regions"] = regions
        if regions.ndim != 2 or regions.shape[1] != tokens or not is_regions(regions):
            raise InputError(
                f"focused_attention: regions are {list(regions.shape)} of {regions.dtype}, expected uint8 "
                f"[windows of an image, {tokens}]"
            )
        if regions.shape[0] == 0 or windows % regions.shape[0] != 0:
            raise InputError(
                f"focused_attention: {windows} windows cannot be images of {regions.shape[0]} windows each, "
                "as the regions say; expected a multiple"
            )
    if state is not None:
        others["the state"] = state.tensor
        if state.tensor.shape[:3] != q.shape[:3]:
            raise InputError(
                f"focused_attention: the state belongs to {list(state.tensor.shape[:3])} windows, heads and tokens, "
                f"q is {list(q.shape)}; expected the same"
            )
    for name, tensor in others.items():
        if tensor.device != q.device:
            raise InputError(f"focused_attention: {name} is on {tensor.device}, expected {q.device}, where q is")
