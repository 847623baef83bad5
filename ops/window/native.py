"""Window attention by compiled kernels of this project, on the CPU: ops/csrc/window_cpu.cpp.

Shapes as in ops/window/attention.py. Logits exist a block of rows at a time, in the cache; the backward pass computes
them again, so only the inputs are kept between the two. The mask may be regions, and nothing of size [n, N, M] is made
then.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ops.window.chunked import backward_flops, forward_flops
from ops.window.region_mask import is_regions

torch.library.define(
    "focalsr::window_attention", "(Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? mask, float scale) -> Tensor"
)
torch.library.define(
    "focalsr::window_attention_backward",
    "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? mask, float scale, bool bias_gradient)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)


def native_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, scale: float) -> Tensor:
    """Shapes and meaning as :func:`ops.window_attention`; gradients of q, k, v and bias, once differentiable."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    if bias is not None:
        bias = bias.to(dtype)
    if mask is not None and not is_regions(mask):
        mask = mask.to(dtype)
    out: Tensor = torch.ops.focalsr.window_attention(q, k, v, bias, mask, scale)
    return out


def _fake(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, scale: float) -> Tensor:
    return _token_major(q, q.shape[2], v.shape[3])


def _fake_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    scale: float,
    bias_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (q.shape[1], q.shape[2], k.shape[2]) if bias_gradient else (0,)
    d_q, d_k, d_v = (_token_major(q, x.shape[2], x.shape[3]) for x in (q, k, v))
    return d_q, d_k, d_v, q.new_empty(shape, dtype=torch.promote_types(q.dtype, torch.float32))


def _token_major(q: Tensor, tokens: int, width: int) -> Tensor:
    """An empty [W, h, tokens, width] with the heads of a token side by side, as the kernels write it."""
    return q.new_empty(q.shape[0], tokens, q.shape[1], width).transpose(1, 2)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wants_bias = ctx.needs_input_grad[3]
    d_q, d_k, d_v, d_bias = torch.ops.focalsr.window_attention_backward(grad, *ctx.saved_tensors, ctx.scale, wants_bias)
    return d_q, d_k, d_v, d_bias if wants_bias else None, None, None


torch.library.register_fake("focalsr::window_attention", _fake)
torch.library.register_fake("focalsr::window_attention_backward", _fake_backward)
torch.library.register_autograd("focalsr::window_attention", _differentiate, setup_context=_setup)
register_flop_formula(torch.ops.focalsr.window_attention)(forward_flops)
register_flop_formula(torch.ops.focalsr.window_attention_backward)(backward_flops)
