"""The attention map of a layer of focused attention, read off the state that it hands on.

Shapes as in ops/focused/attention.py; Q of the N queries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ops.focused.arguments import FocusArguments, FocusState
from ops.focused.table import base_row, token_positions
from ops.window.arguments import WindowArguments
from ops.window.reference import attention_weights
from ops.window.region_mask import mask_rows


def kept_weights(
    arguments: FocusArguments, state: FocusState, windows: slice, queries: slice
) -> tuple[Tensor, Tensor | None]:
    """Weights of some windows and queries, whatever kind of state it is.

    Args:
        arguments: of the layer.
        state: the layer's own, not the one that it was given.
        windows: of the W.
        queries: of the N.

    Returns:
        Weights [W', h, Q, K], float32 at least, and the keys [W', h, Q, K] int64 that they belong to; None for all N in
        their order.
    """
    index = None if state.index is None else state.index[windows, :, queries].long()
    if state.weights is not None:
        return state.weights[windows, :, queries], index
    if index is not None:
        assert state.logits is not None
        assert state.log_sum is not None
        return (state.logits[windows, :, queries] - state.log_sum[windows, :, queries, None]).exp(), index
    assert state.q is not None
    assert state.k is not None
    assert state.table is not None
    total, heads, _, _ = state.q.shape
    q, k = state.q[windows, :, queries], state.k[windows]
    # Rows of the bias for these queries alone: for all of them it is as large as a map.
    position = token_positions(arguments.window, q.device)
    rows = position[queries, None] - position + base_row(arguments.window)  # [Q, N]
    bias = state.table[rows].permute(2, 0, 1).expand(heads, -1, -1)
    mask = None
    if arguments.regions is not None:
        mask = mask_rows(arguments.regions, windows, total, queries, torch.promote_types(q.dtype, torch.float32))
    return attention_weights(WindowArguments(q, k, k, bias, mask, 1.0)), None
