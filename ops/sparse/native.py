"""The sparse matrix products as operators of PyTorch: schemas, fake kernels, gradients, FLOP counts.

Kernels come from ops/csrc once ops/build.py has loaded them; until then, tracing and counting work and a call does not.
Shapes as in ops/sparse/smm.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

for _schema in (
    "smm_qmk(Tensor q, Tensor k_t, Tensor index) -> Tensor",
    "smm_amv(Tensor attn, Tensor v, Tensor index) -> Tensor",
    "smm_qmk_backward(Tensor grad, Tensor q, Tensor k_t, Tensor index, bool wants_q, bool wants_k) -> (Tensor, Tensor)",
    "smm_amv_backward(Tensor grad, Tensor attn, Tensor v, Tensor index, bool wants_attn, bool wants_v)"
    " -> (Tensor, Tensor)",
):
    torch.library.define(f"focalsr::{_schema.partition('(')[0]}", _schema[_schema.index("(") :])


def qmk(q: Tensor, k_t: Tensor, index: Tensor) -> Tensor:
    """The compiled :func:`ops.smm_qmk`, which has checked shapes and types."""
    out: Tensor = torch.ops.focalsr.smm_qmk(q, k_t, index)
    return out


def amv(attn: Tensor, v: Tensor, index: Tensor) -> Tensor:
    """The compiled :func:`ops.smm_amv`, which has checked shapes and types."""
    out: Tensor = torch.ops.focalsr.smm_amv(attn, v, index)
    return out


def _fake_qmk(q: Tensor, k_t: Tensor, index: Tensor) -> Tensor:
    return q.new_empty(index.shape)


def _fake_amv(attn: Tensor, v: Tensor, index: Tensor) -> Tensor:
    return attn.new_empty(*attn.shape[:2], v.shape[2])


def _fake_qmk_backward(
    grad: Tensor, q: Tensor, k_t: Tensor, index: Tensor, wants_q: bool, wants_k: bool
) -> tuple[Tensor, Tensor]:
    # The gradient of the keys is summed one key per row, and returned as the transpose of that.
    batch, channels, keys = k_t.shape
    return (
        q.new_empty(q.shape if wants_q else (0,)),
        q.new_empty(batch, keys, channels).mT if wants_k else q.new_empty(0),
    )


def _fake_amv_backward(
    grad: Tensor, attn: Tensor, v: Tensor, index: Tensor, wants_attn: bool, wants_v: bool
) -> tuple[Tensor, Tensor]:
    return attn.new_empty(attn.shape if wants_attn else (0,)), attn.new_empty(v.shape if wants_v else (0,))


torch.library.register_fake("focalsr::smm_qmk", _fake_qmk)
torch.library.register_fake("focalsr::smm_amv", _fake_amv)
torch.library.register_fake("focalsr::smm_qmk_backward", _fake_qmk_backward)
torch.library.register_fake("focalsr::smm_amv_backward", _fake_amv_backward)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_qmk(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wants_q, wants_k, _ = ctx.needs_input_grad
    d_q, d_k = torch.ops.focalsr.smm_qmk_backward(grad, *ctx.saved_tensors, wants_q, wants_k)
    return d_q if wants_q else None, d_k if wants_k else None, None


def _differentiate_amv(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wants_attn, wants_v, _ = ctx.needs_input_grad
    d_attn, d_v = torch.ops.focalsr.smm_amv_backward(grad, *ctx.saved_tensors, wants_attn, wants_v)
    return d_attn if wants_attn else None, d_v if wants_v else None, None


torch.library.register_autograd("focalsr::smm_qmk", _differentiate_qmk, setup_context=_keep)
torch.library.register_autograd("focalsr::smm_amv", _differentiate_amv, setup_context=_keep)


@register_flop_formula(torch.ops.focalsr.smm_qmk)
def _qmk_flops(q: torch.Size, k_t: torch.Size, index: torch.Size, *args: Any, **kwargs: Any) -> int:
    return 2 * index.numel() * q[2]


@register_flop_formula(torch.ops.focalsr.smm_amv)
def _amv_flops(attn: torch.Size, v: torch.Size, index: torch.Size, *args: Any, **kwargs: Any) -> int:
    return 2 * index.numel() * v[2]


@register_flop_formula(torch.ops.focalsr.smm_qmk_backward)
def _qmk_backward_flops(
    grad: torch.Size, q: torch.Size, k_t: torch.Size, index: torch.Size, wants_q: bool, wants_k: bool, **kwargs: Any
) -> int:
    return 2 * index.numel() * q[2] * (wants_q + wants_k)


@register_flop_formula(torch.ops.focalsr.smm_amv_backward)
def _amv_backward_flops(
    grad: torch.Size, attn: torch.Size, v: torch.Size, index: torch.Size, wants_attn: bool, wants_v: bool, **kwargs: Any
) -> int:
    return 2 * index.numel() * v[2] * (wants_attn + wants_v)
