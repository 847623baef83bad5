"""Focused attention by compiled kernels of this project, one query at a time, so that no map exists.

The backward pass computes weights again from logits or from queries and keys. Layers that select are
``focalsr::focus_select``: ops/csrc/focus_select_cpu.cpp, on CUDA focus_select_bindings.cpp and focus_select_cuda.cu.
Layers whose queries have lists are ``focalsr::focus_sparse``, in files of that name. On a GPU layers that select, and
those with long lists, have the backward pass of ops/focused/dense.py. Shapes as in ops/focused/attention.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ops import build
from ops.focused.arguments import (
    FocusArguments,
    FocusCall,
    FocusFunction,
    FocusState,
    Select,
    SelectBackward,
    Sparse,
    SparseBackward,
    SparseInPlace,
    joined,
    keeps_all,
    list_dtype,
)
from ops.focused.dense import pays, select_gradients, sparse_gradients
from ops.focused.joined import joined_focus
from ops.registration import register
from ops.registry import NATIVE, Backend, exporting, only_on, recording
from ops.window.arguments import token_major
from utils.devices import CPU


def native_focus(arguments: FocusArguments) -> tuple[Tensor, FocusState]:
    """One layer."""
    if arguments.state is not None and arguments.state.index is not None:
        return _listed(arguments, arguments.state)
    if keeps_all(arguments):
        return joined_focus(arguments, prefer=NATIVE)
    q, k, table = joined(arguments)
    table = table.to(torch.promote_types(q.dtype, torch.float32))
    select = Select(q, k, arguments.v, table, arguments.regions, arguments.window, arguments.topk)
    out, logits, index, log_sum = torch.ops.focalsr.focus_select(*select)
    return out, FocusState(logits=logits, index=index, log_sum=log_sum)


def _listed(arguments: FocusArguments, state: FocusState) -> tuple[Tensor, FocusState]:
    assert state.logits is not None
    assert state.index is not None
    q, k, v, table, _, window, topk, scale, _ = arguments
    sparse = Sparse(q, k, v, table.to(state.logits.dtype), state.logits, state.index, window, topk, scale)
    selects = topk < state.index.shape[-1]
    if state.disposable and _in_place(sparse):
        out, log_sum = torch.ops.focalsr.focus_sparse_(*sparse)
        logits, index = (_first_of_each(x, topk) if selects else x for x in (state.logits, state.index))
        return out, FocusState(logits=logits, index=index, log_sum=log_sum)
    out, logits, index, log_sum = torch.ops.focalsr.focus_sparse(*sparse)
    kept = index if selects else state.index
    return out, FocusState(logits=logits, index=kept, log_sum=log_sum)


def _in_place(arguments: Sparse) -> bool:
    """Whether the kernel may write to what it is given: on the CPU, where no gradient is wanted."""
    if arguments.q.device.type != CPU.type or torch.is_grad_enabled() or recording():
        return False
    return all(x.stride(-1) == 1 and x.stride(-2) == x.shape[-1] for x in (arguments.logits, arguments.lists))


def _first_of_each(x: Tensor, length: int) -> Tensor:
    """[W, h, N, K] -> [W, h, N, length], dense from the beginning of each [N, K] on."""
    windows, heads, tokens, _ = x.shape
    return x.as_strided((windows, heads, tokens, length), (*x.stride()[:2], length, 1))


def _refusal(call: FocusCall) -> str | None:
    if exporting():
        return "an exported program must run without this project's operators"
    if call.device == "cuda":
        return _cuda_refusal(call)
    if (elsewhere := only_on(call.device, "cpu", "cuda")) is not None:
        return elsewhere
    if call.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        return f"its kernels know no {call.dtype}"
    return None


def _missing(call: FocusCall) -> str | None:
    if call.device == "cuda":
        return build.cuda_extension("focus_sparse" if call.sparse else "focus_select")
    part = "focus_sparse" if call.sparse else "focus_select" if call.selects else "window"
    return build.cpu_extension(part)


_LONGEST_CUDA_LIST = 512
"""kLongestList of ops/csrc/focus_cuda.h."""
_MOST_CUDA_TOKENS = 1024
"""kMostTokens of ops/csrc/focus_cuda.h."""


def _cuda_refusal(call: FocusCall) -> str | None:
    if call.sparse and call.length > _LONGEST_CUDA_LIST:
        return f"its CUDA kernels take lists of at most {_LONGEST_CUDA_LIST} keys, and these have {call.length}"
    if not call.sparse and call.selects and call.length > _MOST_CUDA_TOKENS:
        return f"its CUDA kernels select among at most {_MOST_CUDA_TOKENS} tokens, and a window has {call.length}"
    if call.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"its CUDA kernels know no {call.dtype}"
    return None


BACKEND: Backend[FocusCall, FocusFunction] = Backend(
    NATIVE,
    native_focus,
    refusal=_refusal,
    merit="compiled kernels of this project: one query at a time, so that no map of queries and keys exists",
    shortfall="the same as joined where all keys are kept",
    missing=_missing,
)


def _numbers(q: Tensor, *last: int) -> Tensor:
    return q.new_empty(*q.shape[:3], *last, dtype=torch.promote_types(q.dtype, torch.float32))


def _dense_like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _fake_select(arguments: Select) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q = arguments.q
    logits = _numbers(q, arguments.topk)
    index = q.new_empty(logits.shape, dtype=list_dtype(arguments.window**2))
    return token_major(q, q.shape[2], arguments.v.shape[3]), logits, index, _numbers(q)


def _fake_select_backward(arguments: SelectBackward) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q = arguments.q
    d_q, d_k, d_v = (token_major(q, q.shape[2], x.shape[3]) for x in (q, q, arguments.v))
    return d_q, d_k, d_v, _dense_like(arguments.table)


def _fake_dense_select_backward(arguments: SelectBackward) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d_q, d_k, d_v, d_table = (_dense_like(x) for x in (arguments.q, arguments.k, arguments.v, arguments.table))
    return d_q, d_k, d_v, d_table


def _fake_sparse(arguments: Sparse) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, index, topk = arguments.q, arguments.lists, arguments.topk
    length = index.shape[3]
    kept = _numbers(q, min(topk, length))
    new_index = index.new_empty(kept.shape if topk < length else (0,))
    return token_major(q, q.shape[2], arguments.v.shape[3]), kept, new_index, _numbers(q)


def _fake_in_place(arguments: SparseInPlace) -> tuple[Tensor, Tensor]:
    q = arguments.q
    return token_major(q, q.shape[2], arguments.v.shape[3]), _numbers(q)


def _fake_sparse_backward(arguments: SparseBackward) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    q = arguments.q
    d_q, d_k, d_v = (token_major(q, q.shape[2], q.shape[3]) for _ in range(3))
    return d_q, d_k, d_v, _dense_like(arguments.table), arguments.logits.new_empty(arguments.lists.shape)


def _fake_dense_sparse_backward(arguments: SparseBackward) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_q, d_k, d_v, d_table = (_dense_like(x) for x in (arguments.q, arguments.k, arguments.v, arguments.table))
    return d_q, d_k, d_v, d_table, arguments.logits.new_empty(arguments.lists.shape)


def _keep_select(ctx: Any, arguments: Select, output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.window, _ = arguments
    _, _, index, log_sum = output
    ctx.mark_non_differentiable(index, log_sum)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, index, log_sum)


def _differentiate_select(
    ctx: Any, grad: Tensor | None, grad_logits: Tensor | None, *others: Tensor | None
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # asked for once: activation checkpointing unpacks a tensor no second time
    grad = torch.zeros_like(saved[2]) if grad is None else grad
    arguments = SelectBackward._make((grad, grad_logits, *saved, ctx.window))
    dense = pays(arguments.q, arguments.lists, sees_all=True)
    operator = torch.ops.focalsr.focus_select_backward_dense if dense else torch.ops.focalsr.focus_select_backward
    gradients = operator(*arguments)
    return (*gradients, None, None, None)


def _keep_sparse(ctx: Any, arguments: Sparse, output: tuple[Tensor, ...]) -> None:
    q, k, v, table, logits, index, ctx.window, topk, ctx.scale = arguments
    _, new_logits, new_index, log_sum = output
    ctx.mark_non_differentiable(new_index, log_sum)
    ctx.set_materialize_grads(False)
    # A list that stays as long as it was needs no input logits: the weights follow from the results.
    kept = (logits, new_index) if topk < index.shape[3] else (new_logits, None)
    ctx.save_for_backward(q, k, v, table, kept[0], index, kept[1], log_sum)


def _differentiate_sparse(
    ctx: Any, grad: Tensor | None, grad_logits: Tensor | None, *others: Tensor | None
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # asked for once: activation checkpointing unpacks a tensor no second time
    grad = torch.zeros_like(saved[2]) if grad is None else grad
    arguments = SparseBackward._make((grad, grad_logits, *saved, ctx.window, ctx.scale))
    dense = pays(arguments.q, arguments.lists, sees_all=False)
    operator = torch.ops.focalsr.focus_sparse_backward_dense if dense else torch.ops.focalsr.focus_sparse_backward
    gradients = operator(*arguments)
    return (*gradients, None, None, None, None)


def _select_flops(sizes: Any) -> int:
    windows, heads, tokens, width = sizes.q
    return int(2 * windows * heads * tokens * (tokens * width + sizes.topk * sizes.v[3]))


def _select_backward_flops(sizes: Any) -> int:
    windows, heads, tokens, width = sizes.q
    return int(2 * windows * heads * tokens * (3 * tokens * width + 2 * sizes.lists[3] * sizes.v[3]))


def _sparse_flops(sizes: Any) -> int:
    windows, heads, tokens, width = sizes.q
    length = sizes.lists[3]
    return int(2 * windows * heads * tokens * width * (length + min(sizes.topk, length)))


def _sparse_backward_flops(sizes: Any) -> int:
    windows, heads, tokens, width = sizes.q
    length = sizes.lists[3]
    after = length if sizes.new_lists is None else sizes.new_lists[3]
    recomputed = 0 if sizes.new_lists is None else length
    return int(2 * windows * heads * tokens * width * (2 * length + 2 * after + recomputed))


def _dense_backward_flops(sizes: Any) -> int:
    windows, heads, tokens, width = sizes.q
    recomputed = 1 if isinstance(sizes, SelectBackward) or sizes.new_lists is not None else 0
    return int(2 * windows * heads * tokens * tokens * ((2 + recomputed) * width + 2 * sizes.v[3]))


register(
    "focus_select", Select, "(Tensor out, Tensor logits, Tensor index, Tensor log_sum)",
    fake=_fake_select, flops=_select_flops, keep=_keep_select, differentiate=_differentiate_select,
)  # fmt: skip
register(
    "focus_select_backward", SelectBackward, "(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_table)",
    fake=_fake_select_backward, flops=_select_backward_flops,
)  # fmt: skip
register(
    "focus_sparse", Sparse, "(Tensor out, Tensor new_logits, Tensor new_index, Tensor log_sum)",
    fake=_fake_sparse, flops=_sparse_flops, keep=_keep_sparse, differentiate=_differentiate_sparse,
)  # fmt: skip
register(
    "focus_sparse_", SparseInPlace, "(Tensor out, Tensor log_sum)",
    fake=_fake_in_place, flops=_sparse_flops,
)  # fmt: skip
register(
    "focus_sparse_backward", SparseBackward, "(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_table, Tensor d_logits)",
    fake=_fake_sparse_backward, flops=_sparse_backward_flops,
)  # fmt: skip
register(
    "focus_select_backward_dense", SelectBackward, "(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_table)",
    kernel=select_gradients, fake=_fake_dense_select_backward, flops=_dense_backward_flops,
)  # fmt: skip
register(
    "focus_sparse_backward_dense", SparseBackward,
    "(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_table, Tensor d_logits)",
    kernel=sparse_gradients, fake=_fake_dense_sparse_backward, flops=_dense_backward_flops,
)  # fmt: skip
