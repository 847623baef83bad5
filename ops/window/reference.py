"""The definition of window attention, in plain PyTorch. Shapes as in ops/window/arguments.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.registry import REFERENCE, Backend
from ops.window.arguments import WindowArguments, WindowCall, WindowFunction
from ops.window.region_mask import dense_mask, mask_rows


def reference_attention(arguments: WindowArguments, dropout: float = 0.0) -> Tensor:
    """``softmax(q k^T * scale + bias + mask) v``, step by step; half precision is computed in float32.

    Args:
        arguments: the operands.
        dropout: probability to drop an attention weight.

    Returns:
        [W, h, N, E].
    """
    weights = attention_weights(arguments)
    if dropout > 0:
        weights = F.dropout(weights, dropout)
    return (weights @ arguments.v.to(weights.dtype)).to(arguments.q.dtype)


def attention_weights(arguments: WindowArguments, windows: slice | None = None, queries: slice | None = None) -> Tensor:
    """``softmax(q k^T * scale + bias + mask)``: the attention maps that multiply the values.

    Args:
        arguments: the operands; the values are not looked at.
        windows: only these of the W; None for all.
        queries: only these of the N; None for all.

    Returns:
        [W', h, Q, M], float32 at least; rows sum to 1.
    """
    if windows is not None or queries is not None:
        arguments = _part(arguments, windows or slice(None), queries or slice(None))
    q, k, _, bias, mask, scale = arguments
    dtype = torch.promote_types(q.dtype, torch.float32)
    logits = (q.to(dtype) * scale) @ k.to(dtype).transpose(-2, -1)  # [W, h, N, M]
    if bias is not None:
        logits = logits + bias.to(dtype)
    if mask is not None:
        by_image = logits.view(-1, mask.shape[0], *logits.shape[1:])  # [B, n, h, N, M]
        logits = (by_image + dense_mask(mask, dtype)[:, None]).flatten(0, 1)
    return logits.softmax(-1)


def _part(arguments: WindowArguments, windows: slice, queries: slice) -> WindowArguments:
    """The arguments of some windows and queries, with a mask for each of these windows."""
    q, k, v, bias, mask, scale = arguments
    if mask is not None:
        mask = mask_rows(mask, windows, q.shape[0], queries, torch.promote_types(q.dtype, torch.float32))
    bias = None if bias is None else bias[:, queries]
    return WindowArguments(q[windows, :, queries], k[windows], v[windows], bias, mask, scale)


BACKEND: Backend[WindowCall, WindowFunction] = Backend(
    REFERENCE,
    reference_attention,
    refusal=lambda call: None,
    merit="plain products, which serve every call",
    shortfall="slower, and it stores all logits several times",
)
