"""Focused attention where all keys are kept: window attention with the queries and keys of all layers side by side.

Logits that sum over layers are one product of joined queries and keys, so such a layer is ordinary attention, and
:func:`ops.window_attention` chooses what runs it. On the CPU ops/focused/all_keys.py serves in float32. Shapes as in
ops/focused/attention.py.
"""

from __future__ import annotations

from torch import Tensor

from ops.focused.all_keys import all_keys, from_table
from ops.focused.arguments import FocusArguments, FocusCall, FocusFunction, FocusState, joined
from ops.focused.table import expanded_bias
from ops.registry import AUTO, NATIVE, Backend
from ops.window.attention import window_attention
from ops.window.region_mask import RegionMask


def joined_focus(arguments: FocusArguments, prefer: str = AUTO) -> tuple[Tensor, FocusState]:
    """One layer; ``prefer`` is the backend of window attention that serves if it can."""
    q, k, table = joined(arguments)
    state = FocusState(q=q, k=k, table=table)
    if prefer in (AUTO, NATIVE) and from_table(q):
        return all_keys(q, k, arguments.v, table, arguments.regions, arguments.window), state
    mask = None if arguments.regions is None else RegionMask(arguments.regions)
    bias = expanded_bias(table, arguments.window, q.shape[1])
    out = window_attention(q, k, arguments.v, bias, mask, 1.0, prefer, strict=False)
    return out, state


def _refusal(call: FocusCall) -> str | None:
    if call.sparse or call.selects:
        return "the layer selects keys or has lists of them, and is no ordinary attention"
    return None


BACKEND: Backend[FocusCall, FocusFunction] = Backend(
    "joined",
    joined_focus,
    refusal=_refusal,
    merit="all keys are kept, so that ops.window_attention with joined queries and keys computes the layer",
)
