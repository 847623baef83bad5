"""Inputs of window attention for the tests.

Shapes: B images of n windows, W = B n, h heads, N queries, M keys, D and E widths.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ops import RegionMask, window_attention


@dataclass(frozen=True)
class Case:
    """Sizes of a call, and which of bias and mask it has."""

    images: int = 2
    windows: int = 4
    heads: int = 3
    queries: int = 12
    keys: int = 12
    width: int = 6
    value_width: int = 6
    bias: bool = True
    mask: bool = False
    regions: bool = False


CASES = {
    "plain": Case(bias=False),
    "bias": Case(),
    "mask": Case(bias=False, mask=True),
    "bias and mask": Case(mask=True),
    "more keys": Case(keys=27),
    "one window per image": Case(windows=1, mask=True),
    "wide values": Case(value_width=9),
    "narrow values": Case(value_width=3, mask=True),
    "regions": Case(mask=True, regions=True),
    "regions without bias": Case(mask=True, regions=True, bias=False, windows=6),
}


@dataclass(frozen=True)
class Inputs:
    """Tensors of a call; ``grad`` is the gradient of its result."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    mask: Any  # Tensor | RegionMask | None
    grad: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        """Values rounded to another type, as new leaves of the graph; bias and mask stay float32 at least."""
        wide = torch.promote_types(dtype, torch.float32)
        q, k, v, grad = (x.detach().to(dtype) for x in (self.q, self.k, self.v, self.grad))
        bias = None if self.bias is None else self.bias.detach().to(wide).requires_grad_()
        mask = self.mask.to(wide) if isinstance(self.mask, Tensor) else self.mask
        return replace(
            self, q=q.requires_grad_(), k=k.requires_grad_(), v=v.requires_grad_(), bias=bias, mask=mask, grad=grad
        )

    def leaves(self) -> list[Tensor]:
        return [x for x in (self.q, self.k, self.v, self.bias) if x is not None]


def make(case: Case, dtype: torch.dtype = torch.float64, seed: int = 0) -> Inputs:
    """Random tensors laid out as networks have them: the heads of a token side by side."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    total = case.images * case.windows
    q = random(total, case.queries, case.heads, case.width).transpose(1, 2)
    k = random(total, case.keys, case.heads, case.width).transpose(1, 2)
    v = random(total, case.keys, case.heads, case.value_width).transpose(1, 2)
    grad = random(total, case.queries, case.heads, case.value_width).transpose(1, 2)
    bias = random(case.heads, case.queries, case.keys) if case.bias else None
    mask: Tensor | RegionMask | None = shift_mask(case) if case.mask else None
    if case.regions:
        mask = RegionMask((shift_mask(case)[:, 0] != 0).byte())
    return Inputs(q, k, v, bias, mask, grad).to(dtype)


def shift_mask(case: Case) -> Tensor:
    """[n, N, M]: the first windows are free, the others cut in two regions, as shifted windows are."""
    mask = torch.zeros(case.windows, case.queries, case.keys, dtype=torch.float64)
    for window in range(case.windows // 2, case.windows):
        cut = 1 + window % max(1, min(case.queries, case.keys) - 1)
        mask[window, :cut, cut:] = -100
        mask[window, cut:, :cut] = -100
    return mask


def run(inputs: Inputs, backend: str = "auto", scale: float | None = None) -> list[Tensor]:
    """The result, then the gradients of q, k, v and bias."""
    i = inputs
    out = window_attention(i.q, i.k, i.v, i.bias, i.mask, scale, backend)
    return [out.detach(), *torch.autograd.grad(out, i.leaves(), i.grad.to(out.dtype))]
