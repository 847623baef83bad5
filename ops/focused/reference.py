"""The definition of focused attention: the published formulas, map by map. Shapes as in ops/focused/attention.py.

It holds several maps [W, h, N, N] at once, as the published network does; everything else is compared with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ops.focused.arguments import FocusArguments, FocusCall, FocusFunction, FocusState
from ops.focused.table import position_index
from ops.registry import REFERENCE, Backend
from ops.window.region_mask import dense_mask

_EPS = 1e-20


def reference_focus(arguments: FocusArguments) -> tuple[Tensor, FocusState]:
    """One layer; half precision is computed in float32."""
    state = arguments.state
    dtype = torch.promote_types(arguments.q.dtype, torch.float32)
    q, k, v = (x.to(dtype) for x in (arguments.q, arguments.k, arguments.v))
    before = None if state is None else state.weights
    index = None if state is None else state.index
    tokens = q.shape[2]
    bias = dense_bias(arguments.table, arguments.window).to(dtype)  # [h or 1, N, N]
    logits = (q * arguments.scale) @ k.transpose(-2, -1)
    if index is None:
        logits = logits + bias
        if arguments.regions is not None:
            by_image = logits.view(-1, len(arguments.regions), *logits.shape[1:])  # [B, n, h, N, N]
            logits = (by_image + dense_mask(arguments.regions, dtype)[:, None]).flatten(0, 1)
    else:
        logits = logits.gather(-1, index) + bias.expand_as(logits).gather(-1, index)
    weights = logits.softmax(-1)
    if before is not None:
        weights = weights * before
        weights = (weights + _EPS) / (weights.sum(-1, keepdim=True) + _EPS)
    if arguments.topk < tokens:
        weights, kept = weights.topk(min(arguments.topk, weights.shape[-1]), dim=-1)
        index = kept if index is None else index.gather(-1, kept)
    spread = weights if index is None else q.new_zeros(*weights.shape[:3], tokens).scatter(-1, index, weights)
    out = spread @ v
    return out.to(arguments.q.dtype), FocusState(weights=weights, index=index)


def dense_bias(table: Tensor, window: int) -> Tensor:
    """[T, h] -> [h, N, N]."""
    return table[position_index(window, table.device)].permute(2, 0, 1)


BACKEND: Backend[FocusCall, FocusFunction] = Backend(
    REFERENCE,
    reference_focus,
    refusal=lambda call: None,
    merit="the published formulas, which serve every call",
    shortfall="slowest, and every layer keeps its map",
)
