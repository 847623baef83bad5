"""The definition of window attention, in plain PyTorch. Shapes as in ops/window/arguments.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.registry import REFERENCE, Backend
from ops.window.arguments import WindowArguments, WindowCall, WindowFunction
from ops.window.region_mask import dense_mask


def reference_attention(arguments: WindowArguments, dropout: float = 0.0) -> Tensor:
    """``softmax(q k^T * scale + bias + mask) v``, step by step; half precision is computed in float32.

    Args:
        arguments: the operands.
        dropout: probability to drop an attention weight.

    Returns:
        [W, h, N, E].
    """
    q, k, v, bias, mask, scale = arguments
    dtype = torch.promote_types(q.dtype, torch.float32)
    logits = (q.to(dtype) * scale) @ k.to(dtype).transpose(-2, -1)  # [W, h, N, M]
    if bias is not None:
        logits = logits + bias.to(dtype)
    if mask is not None:
        by_image = logits.view(-1, mask.shape[0], *logits.shape[1:])  # [B, n, h, N, M]
        logits = (by_image + dense_mask(mask, dtype)[:, None]).flatten(0, 1)
    weights = logits.softmax(-1)
    if dropout > 0:
        weights = F.dropout(weights, dropout)
    return (weights @ v.to(dtype)).to(q.dtype)


BACKEND: Backend[WindowCall, WindowFunction] = Backend(
    REFERENCE,
    reference_attention,
    refusal=lambda call: None,
    merit="plain products, which serve every call",
    shortfall="slower, and it stores all logits several times",
)
