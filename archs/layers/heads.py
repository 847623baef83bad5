"""Queries, keys and values by head, as views of what a linear layer has made, and their gradient in one copy.

Shapes: W windows of N tokens, h heads of width D, C = h * D.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ops.registry import recording


def separate_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values side by side, [W, N, 3C] -> views of each, [W, h, N, D].

    PyTorch would stack the three gradients and then copy them to where the linear layer wants them. Here each is
    copied there at once; attention hands them over with the heads of a token side by side, so that copies are of C
    numbers each.
    """
    if torch.is_grad_enabled() and qkv.requires_grad and not recording():
        separated: tuple[Tensor, Tensor, Tensor] = _Separated.apply(qkv, num_heads)  # type: ignore[no-untyped-call]
        return separated
    return _views(qkv, num_heads)


def joined_heads(x: Tensor) -> Tensor:
    """[W, h, N, D] -> [W, N, C]; a view of what :func:`separate_heads` returns."""
    return x.transpose(1, 2).flatten(2)


def _views(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


class _Separated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return _views(qkv, num_heads)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        some = next((gradient for gradient in gradients if gradient is not None), None)
        if some is None:
            return None, None
        missing = torch.zeros_like(some) if any(gradient is None for gradient in gradients) else some
        found = [(missing if gradient is None else gradient).transpose(1, 2) for gradient in gradients]
        return torch.stack(found, 2).flatten(2), None  # [W, N, 3, h, D]
