"""Window attention by compiled kernels of this project, on the CPU: ops/csrc/window_cpu.cpp.

Shapes as in ops/window/arguments.py. Logits exist a block of rows at a time, in the cache; the backward pass computes
them again, so only the inputs are kept between the two. The mask may be regions, and nothing of size [n, N, M] is made
then.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ops import build
from ops.registration import keep_arguments, register
from ops.registry import NATIVE, Backend, exporting, only_on
from ops.window.arguments import (
    WindowArguments,
    WindowBackward,
    WindowCall,
    WindowFunction,
    backward_flops,
    forward_flops,
    never_held,
    token_major,
)
from ops.window.region_mask import is_regions


def native_attention(arguments: WindowArguments) -> Tensor:
    """[W, h, N, E]; gradients of q, k, v and bias, once differentiable."""
    q, k, v, bias, mask, scale = arguments
    dtype = torch.promote_types(q.dtype, torch.float32)
    # The kernel for bfloat16 takes half of the memory for a bias of that type; a gradient is summed in float32.
    if bias is not None and (bias.requires_grad or not bias.dtype == q.dtype == torch.bfloat16):
        bias = bias.to(dtype)
    if mask is not None and not is_regions(mask):
        mask = mask.to(dtype)
    out: Tensor = torch.ops.focalsr.window_attention(*WindowArguments(q, k, v, bias, mask, scale))
    return out


def _refusal(call: WindowCall) -> str | None:
    if (elsewhere := only_on(call.device, "cpu")) is not None:
        return elsewhere
    if exporting():
        return "an exported program must run without this project's kernels"
    return never_held(call)


BACKEND: Backend[WindowCall, WindowFunction] = Backend(
    NATIVE,
    native_attention,
    refusal=_refusal,
    merit="compiled kernels of this project: a block of logits at a time, in the cache",
    missing=lambda call: build.cpu_extension("window"),
)


def _fake(arguments: WindowArguments) -> Tensor:
    return token_major(arguments.q, arguments.q.shape[2], arguments.v.shape[3])


def _fake_backward(arguments: WindowBackward) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k = arguments.q, arguments.k
    shape = (q.shape[1], q.shape[2], k.shape[2]) if arguments.bias_gradient else (0,)
    d_q, d_k, d_v = (token_major(q, x.shape[2], x.shape[3]) for x in (q, k, arguments.v))
    return d_q, d_k, d_v, q.new_empty(shape, dtype=torch.promote_types(q.dtype, torch.float32))


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wants_bias = ctx.needs_input_grad[3]
    arguments = WindowBackward._make((grad, *ctx.saved_tensors, *ctx.numbers, wants_bias))
    d_q, d_k, d_v, d_bias = torch.ops.focalsr.window_attention_backward(*arguments)
    return d_q, d_k, d_v, d_bias if wants_bias else None, None, None


register(
    "window_attention", WindowArguments, "Tensor",
    fake=_fake, flops=forward_flops, keep=keep_arguments, differentiate=_differentiate,
)  # fmt: skip
# The forms that window_attention takes for bfloat16 where the processor multiplies it; anywhere, for tests.
register("window_attention_bf16", WindowArguments, "Tensor", fake=_fake, flops=forward_flops)
for name in ("window_attention_backward", "window_attention_bf16_backward"):
    register(
        name, WindowBackward, "(Tensor, Tensor, Tensor, Tensor)", fake=_fake_backward, flops=backward_flops
    )  # fmt: skip
