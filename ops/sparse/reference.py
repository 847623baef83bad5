"""The definitions of the sparse products, in plain PyTorch. Shapes as in ops/sparse/smm.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.registry import REFERENCE, Backend, recording
from ops.sparse.arguments import Amv, Qmk, SmmCall

CHUNK = 1 << 23
"""Elements of [B, N, M] that exist at once: 32 MiB of float32."""


def reference_qmk(arguments: Qmk) -> Tensor:
    """All scores, then those that are listed: [B, N, K]."""
    dtype = torch.promote_types(arguments.q.dtype, torch.float32)

    def part(q: Tensor, k_t: Tensor, index: Tensor) -> Tensor:
        return (q.to(dtype) @ k_t.to(dtype)).gather(2, index.long()).to(q.dtype)

    return _by_chunks(part, arguments, arguments.k_t.shape[2])


def reference_amv(arguments: Amv) -> Tensor:
    """A full matrix of weights, zero where nothing is listed, times all values: [B, N, C]."""
    dtype = torch.promote_types(arguments.attn.dtype, torch.float32)

    def part(attn: Tensor, v: Tensor, index: Tensor) -> Tensor:
        dense = torch.zeros(*attn.shape[:2], v.shape[1], dtype=dtype, device=attn.device)
        return (dense.scatter_add(2, index.long(), attn.to(dtype)) @ v.to(dtype)).to(attn.dtype)

    return _by_chunks(part, arguments, arguments.v.shape[1])


def _by_chunks(part: Callable[[Tensor, Tensor, Tensor], Tensor], arguments: Qmk | Amv, keys: int) -> Tensor:
    """The products of a few batch items at a time; traced graphs, whose sizes may be unknown, take them together."""
    x, y, index = arguments
    step = max(1, CHUNK // max(1, x.shape[1] * keys))
    if recording() or x.shape[0] <= step:
        return part(x, y, index)
    return torch.cat([part(*few) for few in zip(x.split(step), y.split(step), index.split(step), strict=True)])


def backend(product: Callable[[Any], Tensor]) -> Backend[SmmCall, Callable[[Any], Tensor]]:
    """One of the two definitions as a backend."""
    return Backend(
        REFERENCE,
        product,
        refusal=lambda call: None,
        merit="plain products of all N x M pairs, which serve every call",
        shortfall="slower, and it needs more memory: it computes all N x M products",
    )
