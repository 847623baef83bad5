"""Focused attention from PyTorch's operators, on cumulative logits. Shapes as in ops/focused/attention.py.

It serves where no compiled kernel does, traces into exported programs, and is exact to rounding. The maps [., h, N, N]
of a few windows exist at a time. It is deterministic on CUDA too, in the backward pass as well: the keys of a list are
distinct, so what is gathered or scattered by them meets nothing else in its place, and ops/window/relative_bias.py
sums the gradient of the table without atomic additions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ops.dialect import dialect
from ops.focused.arguments import (
    FocusArguments,
    FocusCall,
    FocusFunction,
    FocusState,
    joined,
    keeps_all,
    list_dtype,
)
from ops.focused.table import dense_bias
from ops.registry import Backend, exporting, recording
from ops.window.region_mask import dense_mask

ELEMENTS = 1 << 24
"""Elements of a map [windows, h, N, N] that exist at once: 64 MiB in float32, and a few of them."""


def composed_focus(arguments: FocusArguments) -> tuple[Tensor, FocusState]:
    """One layer."""
    if arguments.state is not None and arguments.state.index is not None:
        return _listed(arguments, arguments.state)
    return _unlisted(arguments)


def _unlisted(arguments: FocusArguments) -> tuple[Tensor, FocusState]:
    """All keys, of which some or all are kept; queries and keys [W, h, N, S] are joined."""
    q, k, table = joined(arguments)
    dtype = torch.promote_types(q.dtype, torch.float32)
    bias = dense_bias(table, arguments.window).to(dtype)
    topk = arguments.topk

    def part(q: Tensor, k: Tensor, v: Tensor, regions: Tensor | None) -> _Part:
        logits = q.to(dtype) @ k.to(dtype).transpose(-2, -1) + bias
        if regions is not None:
            logits = logits + dense_mask(regions, dtype)[:, None]
        return _finish(logits, None, topk, v)

    regions = arguments.regions
    if regions is not None:
        regions = regions.repeat(q.shape[0] // regions.shape[0], 1)  # one row for each window of the batch
    out, logits, index, log_sum = _in_parts(part, q, k, arguments.v, regions)
    if keeps_all(arguments):
        return out, FocusState(q=q, k=k, table=table)
    return out, FocusState(logits=logits, index=index, log_sum=log_sum)


def _listed(arguments: FocusArguments, state: FocusState) -> tuple[Tensor, FocusState]:
    """Listed keys alone."""
    assert state.logits is not None
    assert state.index is not None
    dtype = state.logits.dtype
    bias = dense_bias(arguments.table, arguments.window).to(dtype)
    topk, scale = arguments.topk, arguments.scale

    def part(q: Tensor, k: Tensor, v: Tensor, logits: Tensor, index: Tensor) -> _Part:
        keys = index.long()
        scores = (q.to(dtype) * scale) @ k.to(dtype).transpose(-2, -1) + bias
        return _finish(logits + scores.gather(-1, keys), index, topk, v)

    out, logits, index, log_sum = _in_parts(part, arguments.q, arguments.k, arguments.v, state.logits, state.index)
    return out, FocusState(logits=logits, index=index, log_sum=log_sum)


BACKEND: Backend[FocusCall, FocusFunction] = Backend(
    "composed",
    composed_focus,
    refusal=lambda call: None,
    merit="PyTorch's operators on cumulative logits, with the maps of a few windows at a time",
    shortfall="slower, and it needs maps of some windows at a time",
)

_Part = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of some windows: the result, kept logits, their keys, log-sums."""


def _finish(logits: Tensor, index: Tensor | None, topk: int, v: Tensor) -> _Part:
    """Softmax, selection and sum of values: logits [., h, N, K_in] on the list ``index``, None for all keys."""
    length = logits.shape[-1]
    logits = logits - logits.detach().amax(-1, keepdim=True)
    log_sum = logits.detach().logsumexp(-1)
    weights = logits.softmax(-1)
    if topk < length:
        kept = largest(logits.detach(), topk)
        logits, weights = logits.gather(-1, kept), weights.gather(-1, kept)
        index = kept.to(list_dtype(v.shape[2])) if index is None else index.gather(-1, kept)
    elif index is None:
        index = torch.arange(length, device=logits.device, dtype=list_dtype(length)).expand(logits.shape)
    spread = weights.new_zeros(*weights.shape[:-1], v.shape[2]).scatter(-1, index.long(), weights)
    return (spread @ v.to(weights.dtype)).to(v.dtype), logits, index, log_sum


def largest(x: Tensor, count: int) -> Tensor:
    """Where the ``count`` largest numbers of each row are, ascending; of equal ones the first. [..., L] -> [..., K].

    In a program whose runtime chooses the same by itself they are in the order of the numbers.
    """
    if exporting() and dialect().stable_topk:
        return x.topk(count, dim=-1).indices
    threshold = x.topk(count, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    above = x > threshold
    equal = x == threshold
    wanted = count - above.sum(-1, keepdim=True)
    keep = above | (equal & (equal.long().cumsum(-1) <= wanted))
    slot = torch.where(keep, keep.long().cumsum(-1) - 1, count)  # what is not kept meets in one slot, which is cut off
    place = torch.arange(x.shape[-1], device=x.device).expand(x.shape)
    return place.new_zeros(*x.shape[:-1], count + 1).scatter(-1, slot, place)[..., :count]


def _in_parts(part: Callable[..., _Part], q: Tensor, k: Tensor, v: Tensor, *others: Tensor | None) -> _Part:
    """``part`` for a few windows at a time, computed once more in the backward pass instead of keeping its maps."""
    if recording():
        return part(q, k, v, *others)
    windows, heads, tokens, _ = q.shape
    step = max(1, ELEMENTS // (heads * tokens * tokens))
    found = []
    for start in range(0, max(1, windows), step):
        some = [None if x is None else x[start : start + step] for x in (q, k, v, *others)]
        found.append(checkpoint(part, *some, use_reentrant=False) if torch.is_grad_enabled() else part(*some))
    if len(found) == 1:
        return found[0]
    out, logits, index, log_sum = (torch.cat(x) for x in zip(*found, strict=True))
    return out, logits, index, log_sum
