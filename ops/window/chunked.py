"""Window attention for the CPU whose backward pass computes the weights again, a cache-sized chunk at a time.

Shapes as in ops/window/arguments.py. Forward: PyTorch's fused kernel. Backward: five matrix products and a softmax per
chunk of windows (or of the queries of one window), in float32 at least; the gradient of the bias is summed over the
windows on the way. Only the inputs are kept between the two. One operator each, so that compiled graphs hold one node
instead of one per chunk, and the loops may depend on the sizes and on which windows are masked at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.registration import keep_arguments, register
from ops.registry import Backend, exporting
from ops.window.arguments import (
    WindowArguments,
    WindowBackward,
    WindowCall,
    WindowFunction,
    backward_flops,
    few_keys,
    forward_flops,
    never_held,
    token_major,
)
from ops.window.region_mask import dense_mask, is_regions

CHUNK = 1 << 19
"""Logits in one chunk, per thread: 2 MiB of float32, three such buffers. Measured best between 0.2 and 0.5 million for
windows of 256 to 1024 tokens."""


def chunked_attention(arguments: WindowArguments) -> Tensor:
    """[W, h, N, E]; gradients of q, k, v and bias, once differentiable."""
    if arguments.q.dtype == torch.float16:
        return in_float32(chunked_attention, arguments)
    out: Tensor = torch.ops.focalsr.chunked_window_attention(*arguments)
    return out


def in_float32(run: WindowFunction, arguments: WindowArguments) -> Tensor:
    """A backend on half precision: few processors multiply float16, and kernels that convert on the way are slower."""
    q, k, v, bias, mask, scale = arguments
    return run(WindowArguments(q.float(), k.float(), v.float(), bias, mask, scale)).half()


def _refusal(call: WindowCall) -> str | None:
    if call.device != "cpu":
        return f"its chunks are those that suit a CPU, and the tensors are on {call.device}"
    if exporting():
        return "an exported program must run without this project's operators"
    return never_held(call)


BACKEND: Backend[WindowCall, WindowFunction] = Backend(
    "chunked",
    chunked_attention,
    refusal=_refusal,
    merit="PyTorch's fused attention on windows of one mask; the backward pass computes logits again, in chunks",
    # Measured as for sdpa.
    shortfall="no faster than sdpa in evaluation, and slower than the compiled kernels of this project in training too",
    drawback=few_keys,
)


def _forward(arguments: WindowArguments) -> Tensor:
    q, k, v, bias, mask, scale = arguments
    out = token_major(q, q.shape[2], v.shape[-1])
    width = max(q.shape[-1], v.shape[-1])  # the fused kernel wants equal widths
    for span, additive in _spans(len(q), _cast(bias, q), mask, q.dtype):
        few_q, few_k, few_v = (widen(x[span], width) for x in (q, k, v))
        attn_mask = None if additive is None else additive[None]
        few = F.scaled_dot_product_attention(few_q, few_k, few_v, attn_mask, scale=scale)
        out[span] = few[..., : v.shape[-1]]
    return out


def _fake(arguments: WindowArguments) -> Tensor:
    return token_major(arguments.q, arguments.q.shape[2], arguments.v.shape[-1])


def widen(x: Tensor, width: int) -> Tensor:
    """Zeros after the last dimension, which must be dense for the fused kernels."""
    if x.shape[-1] != width:
        return F.pad(x, (0, width - x.shape[-1]))
    return x if x.stride(-1) == 1 else x.contiguous()


def _backward(arguments: WindowBackward) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad, q, k, v, bias, mask, scale, bias_gradient = arguments
    dtype = torch.promote_types(q.dtype, torch.float32)
    windows, heads, queries, _ = q.shape
    keys = k.shape[2]
    d_q, d_k, d_v = (_width_major(x, dtype) for x in (q, k, v))
    d_bias = q.new_zeros((heads, queries, keys) if bias_gradient else 0, dtype=dtype)
    budget = CHUNK * torch.get_num_threads()
    step = max(1, budget // max(1, heads * queries * keys))  # windows in a chunk
    blocks = max(1, -(-heads * queries * keys // budget))  # of queries; more than one only where a chunk is one window
    rows = -(-queries // blocks)
    buffers = q.new_empty(3, min(step, windows) * heads * rows * keys, dtype=dtype)
    for span, additive in _spans(windows, _cast(bias, d_bias), mask, dtype):
        for start in range(span.start, span.stop, step * span.step):
            part = slice(start, min(start + step * span.step, span.stop), span.step)
            few_q, few_k, few_v, few_grad = (x[part].to(dtype).flatten(0, 1) for x in (q, k, v, grad))
            inputs = _Inputs(few_q, few_k, few_v, few_grad, additive, scale)
            parts = [x[part] for x in (d_q, d_k, d_v)]  # views
            # Windows that are not neighbours cannot be joined with their heads.
            by_q, by_k, by_v = joined = [
                x.flatten(0, 1) if part.step == 1 else x.new_empty(len(x) * x.shape[1], *x.shape[2:]) for x in parts
            ]
            _chunk_gradients(inputs, _Outputs(by_q, by_k, by_v, d_bias if bias_gradient else None), buffers, rows)
            if part.step != 1:
                for x, result in zip(parts, joined, strict=True):
                    x.copy_(result.view(x.shape))
    d_bias = d_bias if bias is None else d_bias.to(bias.dtype)
    return d_q.mT.to(q.dtype), d_k.mT.to(q.dtype), d_v.mT.to(q.dtype), d_bias


def _fake_backward(arguments: WindowBackward) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v, bias = arguments.q, arguments.k, arguments.v, arguments.bias
    dtype = torch.promote_types(q.dtype, torch.float32) if bias is None else bias.dtype
    shape = (q.shape[1], q.shape[2], k.shape[2]) if arguments.bias_gradient else (0,)
    d_q, d_k, d_v = (_width_major(x, q.dtype).mT for x in (q, k, v))
    return d_q, d_k, d_v, q.new_empty(shape, dtype=dtype)


class _Inputs(NamedTuple):
    """A chunk of c windows, its heads joined."""

    q: Tensor  # [c h, N, D]
    k: Tensor  # [c h, M, D]
    v: Tensor  # [c h, M, E]
    grad: Tensor  # of the result, [c h, N, E]
    additive: Tensor | None  # bias and mask, [h or 1, N, M]
    scale: float


class _Outputs(NamedTuple):
    """Where the gradients of a chunk go; widths before tokens."""

    q: Tensor  # [c h, D, N]
    k: Tensor  # [c h, D, M]
    v: Tensor  # [c h, E, M]
    bias: Tensor | None  # [h, N, M], added to


def _chunk_gradients(inputs: _Inputs, outputs: _Outputs, buffers: Tensor, rows: int) -> None:
    """The gradients of one chunk, so many rows of queries at a time, with buffers [3, at least c * h * rows * M].

    All results have tokens as their last dimension: matrix products whose last dimension is a width of 24 or 30 take up
    to twice as long.
    """
    q, k, v, grad, additive, scale = inputs
    k_t, v_t = k.mT.contiguous(), v.mT.contiguous()
    for start in range(0, q.shape[1], rows):
        some = slice(start, start + rows)
        few_q, few_grad = q[:, some], grad[:, some]
        shape = (*few_q.shape[:2], k.shape[1])
        # Dense also for the last, smaller block: the kernel of softmax's gradient ignores the strides of its output.
        logits, weights, d_logits = (buffer[: math.prod(shape)].view(shape) for buffer in buffers)
        kept = int(start > 0)  # what earlier rows added counts; uninitialised memory does not
        if additive is not None:
            shared = additive[:, some]  # [h or 1, rows, M]
            logits.view(-1, *shared.shape).copy_(shared)
        logits.baddbmm_(few_q, k_t, beta=0 if additive is None else 1, alpha=scale)
        torch.softmax(logits, -1, out=weights)
        outputs.v.baddbmm_(few_grad.mT, weights, beta=kept)
        d_weights = torch.bmm(few_grad, v_t, out=logits)
        torch.ops.aten._softmax_backward_data.out(d_weights, weights, -1, weights.dtype, grad_input=d_logits)
        if outputs.bias is not None:
            for window in d_logits.split(len(outputs.bias)):
                outputs.bias[:, some] += window
        outputs.k.baddbmm_(few_q.mT, d_logits, beta=kept, alpha=scale)
        outputs.q[..., some].baddbmm_(k_t, d_logits.mT, beta=0, alpha=scale)


def _spans(
    windows: int, bias: Tensor | None, mask: Tensor | None, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor | None]]:
    """Runs of windows with what is added to their logits of this type, float32 at least: [h or 1, N, M] or None.

    Where windows are shifted only the last row and column of windows are masked; the others share the bias as it is,
    and windows of the same regions share their mask.
    """
    if mask is None:
        yield slice(0, windows, 1), bias
        return
    for kind in _kinds(mask):
        only = mask[kind[0] : kind[0] + 1]
        hides = bool((only != only[:, :1]).any() if is_regions(mask) else only.any())
        joined = bias
        if hides:
            dense = dense_mask(only, torch.promote_types(dtype, torch.float32))  # [1, N, M]
            joined = dense if bias is None else bias + dense
        for first in range(0, windows, len(mask)):
            for start, stop, step in _progressions(kind):
                yield slice(first + start, first + stop, step), joined


def _kinds(mask: Tensor) -> list[list[int]]:
    """The windows of an image by their masks: numbers of windows that have the same one, ascending."""
    if not is_regions(mask):
        masked = ((mask.flatten(1).amin(1) != 0) | (mask.flatten(1).amax(1) != 0)).tolist()
        free = [i for i, is_masked in enumerate(masked) if not is_masked]
        # Whether two large masks are equal is more work than it saves.
        return [*([free] if free else []), *([i] for i, is_masked in enumerate(masked) if is_masked)]
    kinds: dict[bytes, list[int]] = {}
    for i, window in enumerate(mask.numpy()):
        kinds.setdefault(window.tobytes(), []).append(i)
    return list(kinds.values())


def _progressions(numbers: list[int]) -> Iterator[tuple[int, int, int]]:
    """Ascending numbers as few ranges (start, stop, step), in order."""
    start = 0
    while start < len(numbers):
        step = numbers[start + 1] - numbers[start] if start + 1 < len(numbers) else 1
        stop = start + 1
        while stop < len(numbers) and numbers[stop] - numbers[stop - 1] == step:
            stop += 1
        yield numbers[start], numbers[stop - 1] + 1, step
        start = stop


def _cast(x: Tensor | None, like: Tensor) -> Tensor | None:
    """The bias as the fused kernel wants it beside ``like``: float32 or float64, and no gradient asked for."""
    return None if x is None else x.detach().to(torch.promote_types(like.dtype, torch.float32))


def _width_major(x: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty transpose of x: [W, h, tokens, width] -> [W, h, width, tokens]."""
    return x.new_empty(*x.shape[:2], x.shape[3], x.shape[2], dtype=dtype)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wants_bias = ctx.needs_input_grad[3]
    arguments = WindowBackward._make((grad, *ctx.saved_tensors, *ctx.numbers, wants_bias))
    d_q, d_k, d_v, d_bias = torch.ops.focalsr.chunked_window_attention_backward(*arguments)
    return d_q, d_k, d_v, d_bias if wants_bias else None, None, None


register(
    "chunked_window_attention", WindowArguments, "Tensor",
    kernel=_forward, fake=_fake, flops=forward_flops, keep=keep_arguments, differentiate=_differentiate,
)  # fmt: skip
register(
    "chunked_window_attention_backward", WindowBackward, "(Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward, fake=_fake_backward, flops=backward_flops,
)  # fmt: skip
