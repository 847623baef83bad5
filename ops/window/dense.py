"""The backward pass of window attention by products of whole windows (ops/maps.py).

Shapes as in ops/window/arguments.py; c of the W windows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ops.autocast import without_autocast
from ops.maps import has_kernels, multiply, parts, store, windows_at_once
from ops.window.arguments import WindowBackward
from ops.window.region_mask import is_regions, mask_rows


class _Added(NamedTuple):
    """What is added to logits, as the kernels read it."""

    bias: Tensor | None  # [h, N, M], float32 at least
    mask: Tensor | None  # [n, N, M] likewise
    regions: Tensor | None  # [n, N] uint8


def add_gradients(arguments: WindowBackward, d_q: Tensor, d_k: Tensor, d_v: Tensor, d_bias: Tensor | None) -> None:
    """Write the gradients of q, k and v, and add that of the bias [h, N, M] to ``d_bias``."""
    with without_autocast(arguments.q.device):
        _add_gradients(arguments, d_q, d_k, d_v, d_bias)


def _add_gradients(arguments: WindowBackward, d_q: Tensor, d_k: Tensor, d_v: Tensor, d_bias: Tensor | None) -> None:
    grad, q, k, v, bias, mask, scale, _ = arguments
    windows, heads, queries, _ = q.shape
    keys = k.shape[2]
    dtype = torch.promote_types(q.dtype, torch.float32)
    added = _Added(
        None if bias is None else bias.to(dtype).contiguous(),
        None if mask is None or is_regions(mask) else mask.to(dtype).contiguous(),
        mask.contiguous() if mask is not None and is_regions(mask) else None,
    )
    step = windows_at_once(windows, queries * keys)
    products, scores = (q.new_empty(step, queries, keys, dtype=dtype) for _ in range(2))
    gradient, weights = products, scores
    if q.dtype != dtype:
        gradient, weights = (q.new_empty(step, queries, keys) for _ in range(2))
    rows = _rows_by_kernels if has_kernels(q, keys) else _rows
    for some, head in parts(windows, heads, queries * keys):
        few_q, few_k, few_v, few_grad = (x[some, head] for x in (q, k, v, grad))
        count = len(few_q)
        multiply(few_q, few_k.mT, scores[:count])
        multiply(few_grad, few_v.mT, products[:count])
        maps = (products[:count], scores[:count], gradient[:count], weights[:count])
        rows(added, maps, some, windows, head, scale)
        if d_bias is not None:
            d_bias[head] += maps[2].sum(0, dtype=d_bias.dtype)
        store(maps[3].mT, few_grad, d_v[some, head])
        store(maps[2], few_k, d_q[some, head], scale)
        store(maps[2].mT, few_q, d_k[some, head], scale)


def _rows_by_kernels(
    added: _Added, maps: tuple[Tensor, ...], some: slice, windows: int, head: int, scale: float
) -> None:
    """Gradient of the logits and weights, out of products and scores: the four maps."""
    products, scores, gradient, weights = maps
    torch.ops.focalsr.map_window(products, scores, *added, gradient, weights, some.start, head, scale)


def _rows(added: _Added, maps: tuple[Tensor, ...], some: slice, windows: int, head: int, scale: float) -> None:
    """The same by PyTorch's operators."""
    products, scores, gradient, weights = maps
    scores.mul_(scale)
    if added.bias is not None:
        scores += added.bias[head]
    mask = added.mask if added.regions is None else added.regions
    if mask is not None:
        scores += mask_rows(mask, some, windows, slice(None), scores.dtype)
    softmax = scores.softmax(-1)
    weights.copy_(softmax)
    gradient.copy_(products.sub_((softmax * products).sum(-1, keepdim=True)).mul_(softmax))
