"""The sparse products by compiled kernels of this project: ops/csrc/smm_cpu.cpp, smm_bindings.cpp and smm_cuda.cu.

On a GPU the backward pass of long lists is that of ops/sparse/dense.py. Shapes as in ops/sparse/smm.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops import build
from ops.registration import keep_arguments, register
from ops.registry import NATIVE, Backend, exporting, only_on
from ops.sparse.arguments import Amv, AmvBackward, Qmk, QmkBackward, SmmCall
from ops.sparse.dense import amv_gradients, pays, qmk_gradients
from utils.devices import without_values


def native_qmk(arguments: Qmk) -> Tensor:
    """[B, N, K]; shapes and types are checked."""
    out: Tensor = torch.ops.focalsr.smm_qmk(*arguments)
    return out


def native_amv(arguments: Amv) -> Tensor:
    """[B, N, C]; shapes and types are checked."""
    out: Tensor = torch.ops.focalsr.smm_amv(*arguments)
    return out


def _refusal(call: SmmCall) -> str | None:
    if without_values(call.device):  # shapes and counts need no kernel
        return None
    if exporting():
        return "an exported program must run without this project's kernels"
    if (elsewhere := only_on(call.device, "cpu", "cuda")) is not None:
        return elsewhere
    if call.device == "cuda" and call.double:
        return "the tensors are float64, and the CUDA kernels sum in float32"
    return None


def _missing(call: SmmCall) -> str | None:
    if without_values(call.device):
        return None
    return build.cuda_extension("smm") if call.device == "cuda" else build.cpu_extension("smm")


def backend(product: Callable[[Any], Tensor]) -> Backend[SmmCall, Callable[[Any], Tensor]]:
    """One of the two products as a backend."""
    return Backend(
        NATIVE,
        product,
        refusal=_refusal,
        merit="compiled kernels of this project, which compute the listed products alone",
        missing=_missing,
    )


def _fake_qmk(arguments: Qmk) -> Tensor:
    return arguments.q.new_empty(arguments.lists.shape)


def _fake_amv(arguments: Amv) -> Tensor:
    return arguments.attn.new_empty(*arguments.attn.shape[:2], arguments.v.shape[2])


def _fake_qmk_backward(arguments: QmkBackward) -> tuple[Tensor, Tensor]:
    # The gradient of the keys is summed one key per row, and returned as the transpose of that.
    q = arguments.q
    batch, channels, keys = arguments.k_t.shape
    return (
        q.new_empty(q.shape if arguments.wants_q else (0,)),
        q.new_empty(batch, keys, channels).mT if arguments.wants_k else q.new_empty(0),
    )


def _fake_amv_backward(arguments: AmvBackward) -> tuple[Tensor, Tensor]:
    attn, v = arguments.attn, arguments.v
    return (
        attn.new_empty(attn.shape if arguments.wants_attn else (0,)),
        attn.new_empty(v.shape if arguments.wants_v else (0,)),
    )


def _differentiate_qmk(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wants_q, wants_k, _ = ctx.needs_input_grad
    arguments = QmkBackward._make((grad, *ctx.saved_tensors, wants_q, wants_k))
    dense = pays(arguments.q, arguments.lists.shape[2], arguments.k_t.shape[2])
    operator = torch.ops.focalsr.smm_qmk_backward_dense if dense else torch.ops.focalsr.smm_qmk_backward
    d_q, d_k = operator(*arguments)
    return d_q if wants_q else None, d_k if wants_k else None, None


def _differentiate_amv(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wants_attn, wants_v, _ = ctx.needs_input_grad
    arguments = AmvBackward._make((grad, *ctx.saved_tensors, wants_attn, wants_v))
    dense = pays(arguments.attn, arguments.lists.shape[2], arguments.v.shape[1])
    operator = torch.ops.focalsr.smm_amv_backward_dense if dense else torch.ops.focalsr.smm_amv_backward
    d_attn, d_v = operator(*arguments)
    return d_attn if wants_attn else None, d_v if wants_v else None, None


def _qmk_flops(sizes: Any) -> int:
    return int(2 * sizes.lists.numel() * sizes.q[2])


def _amv_flops(sizes: Any) -> int:
    return int(2 * sizes.lists.numel() * sizes.v[2])


def _dense_qmk_flops(sizes: Any) -> int:
    batch, queries, width = sizes.q
    return int(2 * batch * queries * width * sizes.k_t[2] * (sizes.wants_q + sizes.wants_k))


def _dense_amv_flops(sizes: Any) -> int:
    batch, queries, _ = sizes.attn
    return int(2 * batch * queries * sizes.v[1] * sizes.v[2] * (sizes.wants_attn + sizes.wants_v))


register(
    "smm_qmk", Qmk, "Tensor",
    fake=_fake_qmk, flops=_qmk_flops, keep=keep_arguments, differentiate=_differentiate_qmk,
)  # fmt: skip
register(
    "smm_amv", Amv, "Tensor",
    fake=_fake_amv, flops=_amv_flops, keep=keep_arguments, differentiate=_differentiate_amv,
)  # fmt: skip
register(
    "smm_qmk_backward", QmkBackward, "(Tensor, Tensor)",
    fake=_fake_qmk_backward, flops=lambda sizes: _qmk_flops(sizes) * (sizes.wants_q + sizes.wants_k),
)  # fmt: skip
register(
    "smm_amv_backward", AmvBackward, "(Tensor, Tensor)",
    fake=_fake_amv_backward, flops=lambda sizes: _amv_flops(sizes) * (sizes.wants_attn + sizes.wants_v),
)  # fmt: skip
register(
    "smm_qmk_backward_dense", QmkBackward, "(Tensor, Tensor)",
    kernel=qmk_gradients, fake=_fake_qmk_backward, flops=_dense_qmk_flops,
)  # fmt: skip
register(
    "smm_amv_backward_dense", AmvBackward, "(Tensor, Tensor)",
    kernel=amv_gradients, fake=_fake_amv_backward, flops=_dense_amv_flops,
)  # fmt: skip
