"""Layers that keep all keys, on the CPU: attention and gradients from the bias table as it is.

Window attention would be given a bias of all queries and keys, and its backward pass would sum a gradient as large as
that, one for each window, before it is summed by row of the table. The kernels of ops/csrc/focus_all_cpu.cpp read the
table in its place, and sum by row. Shapes as in ops/focused/attention.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops import build
from ops.registration import keep_arguments, register
from ops.registry import exporting, recording
from ops.window.arguments import token_major
from utils.devices import CPU


class AllKeys(NamedTuple):
    """The arguments of ``focalsr::focus_all``."""

    q: Tensor  # [W, h, N, S], joined and scaled
    k: Tensor  # [W, h, N, S]
    v: Tensor  # [W, h, N, D]
    table: Tensor  # [T, h or 1], float32 at least
    regions: Tensor | None  # [n, N] uint8
    window: int


class AllKeysBackward(NamedTuple):
    """The arguments of its gradient."""

    grad: Tensor  # [W, h, N, D]
    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor
    regions: Tensor | None
    window: int


def from_table(q: Tensor) -> bool:
    """Whether :func:`all_keys` serves: on the CPU, in float32 and float64.

    Window attention has a form of its own for bfloat16.
    """
    if q.device.type != CPU.type or q.dtype not in (torch.float32, torch.float64) or exporting() or recording():
        return False
    return build.cpu_extension("focus_all") is None


def all_keys(q: Tensor, k: Tensor, v: Tensor, table: Tensor, regions: Tensor | None, window: int) -> Tensor:
    """[W, h, N, D]; gradients of q, k, v and the table, once differentiable."""
    out: Tensor = torch.ops.focalsr.focus_all(*AllKeys(q, k, v, table.to(q.dtype), regions, window))
    return out


def _fake(arguments: AllKeys) -> Tensor:
    q = arguments.q
    return token_major(q, q.shape[2], arguments.v.shape[3])


def _fake_backward(arguments: AllKeysBackward) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, table = arguments.q, arguments.table
    d_q, d_k, d_v = (token_major(q, q.shape[2], x.shape[3]) for x in (q, arguments.k, arguments.v))
    return d_q, d_k, d_v, table.new_empty(table.shape)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    arguments = AllKeysBackward._make((grad, *ctx.saved_tensors, *ctx.numbers))
    return (*torch.ops.focalsr.focus_all_backward(*arguments), None, None)


def _flops(sizes: Any) -> int:
    windows, heads, tokens, width = sizes.q
    return int(2 * windows * heads * tokens * tokens * (width + sizes.v[3]))


def _backward_flops(sizes: Any) -> int:
    windows, heads, tokens, width = sizes.q
    return int(2 * windows * heads * tokens * tokens * (3 * width + 2 * sizes.v[3]))


register(
    "focus_all", AllKeys, "Tensor",
    fake=_fake, flops=_flops, keep=keep_arguments, differentiate=_differentiate,
)  # fmt: skip
register(
    "focus_all_backward", AllKeysBackward, "(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_table)",
    fake=_fake_backward, flops=_backward_flops,
)  # fmt: skip
