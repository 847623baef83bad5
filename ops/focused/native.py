"""Focused attention by compiled kernels of this project: ops/csrc/focus_*.

One query at a time, so that no map exists; the backward pass computes weights again from logits or from queries and
keys. Layers that keep all keys are ordinary attention. Shapes as in ops/focused/attention.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ops.focused.composed import unlisted
from ops.focused.state import FocusInputs, FocusState, joined, list_dtype

for _name, _arguments, _results in (
    (
        "focus_select",
        "Tensor q, Tensor k, Tensor v, Tensor table, Tensor? regions, int window, int topk",
        "(Tensor out, Tensor logits, Tensor index, Tensor log_sum)",
    ),
    (
        "focus_select_backward",
        "Tensor grad, Tensor? grad_logits, Tensor q, Tensor k, Tensor v, Tensor table, Tensor? regions, Tensor index, "
        "Tensor log_sum, int window",
        "(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_table)",
    ),
    (
        "focus_sparse",
        "Tensor q, Tensor k, Tensor v, Tensor table, Tensor logits, Tensor index, int window, int topk, float scale",
        "(Tensor out, Tensor new_logits, Tensor new_index, Tensor log_sum)",
    ),
    (
        "focus_sparse_backward",
        "Tensor grad, Tensor? grad_logits, Tensor q, Tensor k, Tensor v, Tensor table, Tensor logits, Tensor index, "
        "Tensor? new_index, Tensor log_sum, int window, float scale",
        "(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_table, Tensor d_logits)",
    ),
):
    torch.library.define(f"focalsr::{_name}", f"({_arguments}) -> {_results}")


def native_focus(inputs: FocusInputs, state: FocusState | None) -> tuple[Tensor, FocusState]:
    """One layer."""
    if state is not None and state.index is not None:
        return _listed(inputs, state)
    q, k, table = joined(inputs, state)
    tokens = q.shape[2]
    if inputs.topk >= tokens:
        return unlisted(inputs, q, k, table)
    dtype = torch.promote_types(q.dtype, torch.float32)
    out, logits, index, log_sum = torch.ops.focalsr.focus_select(
        q, k, inputs.v, table.to(dtype), inputs.regions, inputs.window, inputs.topk
    )
    return out, FocusState(logits=logits, index=index, log_sum=log_sum)


def _listed(inputs: FocusInputs, state: FocusState) -> tuple[Tensor, FocusState]:
    assert state.logits is not None
    assert state.index is not None
    out, logits, index, log_sum = torch.ops.focalsr.focus_sparse(
        inputs.q,
        inputs.k,
        inputs.v,
        inputs.table.to(state.logits.dtype),
        state.logits,
        state.index,
        inputs.window,
        inputs.topk,
        inputs.scale,
    )
    kept = index if inputs.topk < state.index.shape[-1] else state.index
    return out, FocusState(logits=logits, index=kept, log_sum=log_sum)


def _token_major(q: Tensor, width: int) -> Tensor:
    """An empty [W, h, N, width] with the heads of a token side by side, as the kernels write it."""
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], width).transpose(1, 2)


def _numbers(q: Tensor, *last: int) -> Tensor:
    return q.new_empty(*q.shape[:3], *last, dtype=torch.promote_types(q.dtype, torch.float32))


def _fake_select(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, regions: Tensor | None, window: int, topk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logits = _numbers(q, topk)
    index = q.new_empty(logits.shape, dtype=list_dtype(window**2))
    return _token_major(q, v.shape[3]), logits, index, _numbers(q)


def _fake_select_backward(
    grad: Tensor,
    grad_logits: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    regions: Tensor | None,
    index: Tensor,
    log_sum: Tensor,
    window: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _token_major(q, q.shape[3]), _token_major(q, q.shape[3]), _token_major(q, v.shape[3]), _dense_like(table)


def _fake_sparse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    logits: Tensor,
    index: Tensor,
    window: int,
    topk: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    length = index.shape[3]
    kept = _numbers(q, min(topk, length))
    new_index = index.new_empty(kept.shape if topk < length else (0,))
    return _token_major(q, v.shape[3]), kept, new_index, _numbers(q)


def _fake_sparse_backward(
    grad: Tensor,
    grad_logits: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    logits: Tensor,
    index: Tensor,
    new_index: Tensor | None,
    log_sum: Tensor,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_q, d_k, d_v = (_token_major(q, q.shape[3]) for _ in range(3))
    return d_q, d_k, d_v, _dense_like(table), logits.new_empty(index.shape)


def _dense_like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _keep_select(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, table, regions, ctx.window, _ = inputs
    _, _, index, log_sum = output
    ctx.mark_non_differentiable(index, log_sum)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, table, regions, index, log_sum)


def _differentiate_select(
    ctx: Any, grad: Tensor | None, grad_logits: Tensor | None, *others: Tensor | None
) -> tuple[Tensor | None, ...]:
    q, k, v, table, regions, index, log_sum = ctx.saved_tensors
    grad = torch.zeros_like(v) if grad is None else grad
    gradients = torch.ops.focalsr.focus_select_backward(
        grad, grad_logits, q, k, v, table, regions, index, log_sum, ctx.window
    )
    return (*gradients, None, None, None)


def _keep_sparse(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, table, logits, index, ctx.window, topk, ctx.scale = inputs
    _, new_logits, new_index, log_sum = output
    ctx.mark_non_differentiable(new_index, log_sum)
    ctx.set_materialize_grads(False)
    # A list that stays as long as it was needs no input logits: the weights follow from the results.
    kept = (logits, new_index) if topk < index.shape[3] else (new_logits, None)
    ctx.save_for_backward(q, k, v, table, kept[0], index, kept[1], log_sum)


def _differentiate_sparse(
    ctx: Any, grad: Tensor | None, grad_logits: Tensor | None, *others: Tensor | None
) -> tuple[Tensor | None, ...]:
    q, k, v, table, logits, index, new_index, log_sum = ctx.saved_tensors
    grad = torch.zeros_like(v) if grad is None else grad
    gradients = torch.ops.focalsr.focus_sparse_backward(
        grad, grad_logits, q, k, v, table, logits, index, new_index, log_sum, ctx.window, ctx.scale
    )
    return (*gradients, None, None, None, None)


torch.library.register_fake("focalsr::focus_select", _fake_select)
torch.library.register_fake("focalsr::focus_select_backward", _fake_select_backward)
torch.library.register_fake("focalsr::focus_sparse", _fake_sparse)
torch.library.register_fake("focalsr::focus_sparse_backward", _fake_sparse_backward)
torch.library.register_autograd("focalsr::focus_select", _differentiate_select, setup_context=_keep_select)
torch.library.register_autograd("focalsr::focus_sparse", _differentiate_sparse, setup_context=_keep_sparse)


@register_flop_formula(torch.ops.focalsr.focus_select)
def _select_flops(
    q: torch.Size, k: torch.Size, v: torch.Size, table: torch.Size, regions: Any, window: int, topk: int, **kwargs: Any
) -> int:
    windows, heads, tokens, width = q
    return 2 * windows * heads * tokens * (tokens * width + topk * v[3])


@register_flop_formula(torch.ops.focalsr.focus_select_backward)
def _select_backward_flops(
    grad: torch.Size, grad_logits: Any, q: torch.Size, k: torch.Size, v: torch.Size, table: torch.Size, regions: Any,
    index: torch.Size, *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    windows, heads, tokens, width = q
    return 2 * windows * heads * tokens * (3 * tokens * width + 2 * index[3] * v[3])


@register_flop_formula(torch.ops.focalsr.focus_sparse)
def _sparse_flops(
    q: torch.Size, k: torch.Size, v: torch.Size, table: torch.Size, logits: torch.Size, index: torch.Size, window: int,
    topk: int, *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    windows, heads, tokens, width = q
    return 2 * windows * heads * tokens * width * (index[3] + min(topk, index[3]))


@register_flop_formula(torch.ops.focalsr.focus_sparse_backward)
def _sparse_backward_flops(
    grad: torch.Size, grad_logits: Any, q: torch.Size, k: torch.Size, v: torch.Size, table: torch.Size,
    logits: torch.Size, index: torch.Size, new_index: torch.Size | None, *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    windows, heads, tokens, width = q
    after = index[3] if new_index is None else new_index[3]
    recomputed = 0 if new_index is None else index[3]
    return 2 * windows * heads * tokens * width * (2 * index[3] + 2 * after + recomputed)
