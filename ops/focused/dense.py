"""The backward pass of focused attention by products of whole windows: ops/maps.py. Shapes as in ops/focused/native.py.

What a query's list leaves out is computed and not used, or is zero in a map. On a GPU that takes less time than walking
the lists wherever they hold a good part of the keys: rows of 40 numbers that are read one by one from a cache cost more
than the products of tiles in shared memory, and the gradient of the keys needs no lists by key. Keys of a list are
distinct, so nothing is added where something else is, and the results are the same each time.

c of the W windows, one head at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ops.autocast import without_autocast
from ops.focused.arguments import SelectBackward, SparseBackward
from ops.focused.table import dense_bias, pair_sums
from ops.maps import multiply, parts, store, windows_at_once
from ops.window.region_mask import dense_mask

SHARE = {torch.float32: 1 / 8, torch.bfloat16: 1 / 8, torch.float16: 1 / 8}
"""Lists with at least this share of a window's keys have their backward pass here, on a GPU."""


def pays(q: Tensor, length: int) -> bool:
    """Whether this is the way of the backward pass for lists of this length, for queries [W, h, N, D]."""
    return q.device.type == "cuda" and length >= SHARE.get(q.dtype, 2.0) * q.shape[2]


class Room(NamedTuple):
    """Memory of the maps of some windows, and sums over all of them."""

    first: Tensor  # [c, N, N], float32 at least
    second: Tensor  # [c, N, N]
    narrow: Tensor  # [c, N, N] in the type of q: ``second`` itself where that is the same
    pairs: Tensor  # [h or 1, N, N], gradient of the bias

    def for_windows(self, count: int) -> tuple[Tensor, Tensor]:
        """Two maps to write to."""
        return self.first[:count], self.second[:count]

    def as_factor(self, x: Tensor) -> Tensor:
        """A map in the type of q."""
        if x.dtype == self.narrow.dtype:
            return x
        return self.narrow[: len(x)].copy_(x)


def _room(q: Tensor, columns: int) -> Room:
    windows, _, tokens, _ = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    shape = (windows_at_once(windows, tokens * tokens), tokens, tokens)
    first, second = q.new_empty(2, *shape, dtype=dtype).unbind(0)
    narrow = second if q.dtype == dtype else q.new_empty(shape)
    return Room(first, second, narrow, q.new_zeros(columns, tokens, tokens, dtype=dtype))


def select_gradients(arguments: SelectBackward) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the table of a layer that sees all keys and keeps some."""
    with without_autocast(arguments.q.device):
        return _select_gradients(arguments)


def _select_gradients(arguments: SelectBackward) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad, grad_logits, q, k, v, table, regions, lists, log_sum, window = arguments
    windows, heads, tokens, _ = q.shape
    room = _room(q, table.shape[1])
    bias = dense_bias(table, window)
    d_q, d_k, d_v = (x.new_empty(x.shape) for x in (q, k, v))
    if regions is not None:
        regions = regions.repeat(windows // len(regions), 1)
    for some, head in parts(windows, heads, tokens * tokens):
        few_q, few_k, few_v, few_grad, keys = (x[some, head] for x in (q, k, v, grad, lists))
        column = head % table.shape[1]
        products, weights = room.for_windows(len(few_q))
        multiply(few_q, few_k.mT, weights).add_(bias[column])
        if regions is not None:
            weights += dense_mask(regions[some], weights.dtype)
        weights.sub_(weights.amax(-1, keepdim=True) + log_sum[some, head, :, None]).exp_()
        multiply(few_grad, few_v.mT, products)
        keys = keys.long()
        kept = weights.gather(-1, keys)
        d_kept = products.gather(-1, keys).mul_(kept)
        mean = d_kept.sum(-1, keepdim=True)
        if grad_logits is not None:
            d_kept += grad_logits[some, head]
        weights.mul_(-mean)
        d_kept += weights.gather(-1, keys)
        d_logits = weights.scatter_(-1, keys, d_kept)
        spread = products.zero_().scatter_(-1, keys, kept)
        room.pairs[column] += d_logits.sum(0)
        store(room.as_factor(spread).mT, few_grad, d_v[some, head])
        d_logits = room.as_factor(d_logits)
        store(d_logits, few_k, d_q[some, head])
        store(d_logits.mT, few_q, d_k[some, head])
    return d_q, d_k, d_v, pair_sums(room.pairs, window).to(table.dtype)


def sparse_gradients(arguments: SparseBackward) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, the table and the logits of a layer whose queries have lists."""
    with without_autocast(arguments.q.device):
        return _sparse_gradients(arguments)


def _sparse_gradients(arguments: SparseBackward) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    q, k, v, table = arguments.q, arguments.k, arguments.v, arguments.table
    windows, heads, tokens, _ = q.shape
    room = _room(q, table.shape[1])
    bias = None if arguments.new_lists is None else dense_bias(table, arguments.window)
    d_q, d_k, d_v = (x.new_empty(x.shape) for x in (q, k, v))
    d_logits = arguments.logits.new_empty(arguments.lists.shape)
    for some, head in parts(windows, heads, tokens * tokens):
        few_q, few_k, few_grad = (x[some, head] for x in (q, k, arguments.grad))
        column = head % table.shape[1]
        if bias is None:
            gradient, spread = _keeping(arguments, room, some, head)
        else:
            gradient, spread = _choosing(arguments, room, some, head, bias[column])
        keys = arguments.lists[some, head].long()
        d_logits[some, head] = gradient.gather(-1, keys)
        room.pairs[column] += gradient.sum(0)
        store(room.as_factor(spread).mT, few_grad, d_v[some, head])
        gradient = room.as_factor(gradient)
        store(gradient, few_k, d_q[some, head], arguments.scale)
        store(gradient.mT, few_q, d_k[some, head], arguments.scale)
    return d_q, d_k, d_v, pair_sums(room.pairs, arguments.window).to(table.dtype), d_logits


def _keeping(arguments: SparseBackward, room: Room, some: slice, head: int) -> tuple[Tensor, Tensor]:
    """Maps [c, N, N] of the gradient of the logits and of the weights, of a layer that keeps its lists."""
    keys = arguments.lists[some, head].long()
    products, other = room.for_windows(len(keys))
    weights = (arguments.logits[some, head] - arguments.log_sum[some, head, :, None]).exp_()
    multiply(arguments.grad[some, head], arguments.v[some, head].mT, products)
    gradient = products.gather(-1, keys).mul_(weights)
    gradient.addcmul_(weights, gradient.sum(-1, keepdim=True), value=-1)
    if arguments.grad_logits is not None:
        gradient += arguments.grad_logits[some, head]
    return products.zero_().scatter_(-1, keys, gradient), other.zero_().scatter_(-1, keys, weights)


def _choosing(arguments: SparseBackward, room: Room, some: slice, head: int, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a layer that shortens its lists, with the head's bias [N, N]."""
    assert arguments.new_lists is not None
    keys, kept = arguments.lists[some, head].long(), arguments.new_lists[some, head].long()
    first, second = room.for_windows(len(keys))
    scores = multiply(arguments.q[some, head], arguments.k[some, head].mT, first)
    logits = torch.add(arguments.logits[some, head], scores.mul_(arguments.scale).add_(bias).gather(-1, keys))
    weights = logits.sub_(logits.amax(-1, keepdim=True) + arguments.log_sum[some, head, :, None]).exp_()
    kept_weights = second.scatter_(-1, keys, weights).gather(-1, kept)
    products = multiply(arguments.grad[some, head], arguments.v[some, head].mT, first)
    d_kept = products.gather(-1, kept).mul_(kept_weights)
    mean = d_kept.sum(-1, keepdim=True)
    if arguments.grad_logits is not None:
        d_kept += arguments.grad_logits[some, head]
    gradient = first.zero_().scatter_(-1, keys, weights.mul_(-mean))
    d_kept += gradient.gather(-1, kept)
    return gradient.scatter_(-1, kept, d_kept), second.zero_().scatter_(-1, kept, kept_weights)
