"""The backward pass of focused attention by products of whole windows (ops/maps.py).

What a query's list leaves out is computed and not used, or is zero in a map. On a GPU that takes less time than walking
the lists where they hold a good part of the keys. Keys of a list are distinct, so nothing is added where something else
is, and the results are the same each time.

Shapes as in ops/focused/attention.py; P length of a list after a selection, c of the W windows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ops.autocast import without_autocast
from ops.focused.arguments import SelectBackward, SparseBackward
from ops.focused.table import dense_bias, pair_sums
from ops.maps import has_kernels, multiply, parts, store, windows_at_once
from ops.window.region_mask import dense_mask

SHARE = 1 / 2
"""Lists with this share of a window's keys, or more, have their backward pass here.

Measured on an H100 with 16 windows of 1024 tokens, 6 heads, width 40, in ms, here and along lists: 256 keys 2.9 and 2.2
in float32, 2.4 and 2.1 in bfloat16; 256 of which 128 stay 3.4 and 2.8, 2.1 and 2.4; 128 keys 2.7 and 1.5 in float32.
What it takes along lists grows with them, and here it does not: they would meet at about 370 keys, in bfloat16 at 290.
"""
_LEAST_PAIRS = {True: 1 << 22, False: 1 << 24}
"""Of a query and a key, in all windows of a head, for layers that see all keys and for others: below, starting the
products takes longer than they do."""


def pays(q: Tensor, lists: Tensor, *, sees_all: bool) -> bool:
    """Whether this is the way of the backward pass, for queries [W, h, N, D] and lists [W, h, N, K] before the layer.

    Layers that see all keys select by logits that are products of whole windows anyway: 3.6 ms here where tiles of
    eight queries take 9.8, however few keys they keep, which ``lists`` are.
    """
    windows, _, tokens, _ = q.shape
    if windows * tokens * tokens < _LEAST_PAIRS[sees_all] or not has_kernels(q, tokens):
        return False
    return sees_all or lists.shape[3] >= SHARE * tokens


class _Layer(NamedTuple):
    """The operands of either operator."""

    grad: Tensor  # [W, h, N, D]
    grad_next: Tensor | None  # of the logits after the layer
    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor
    regions: Tensor | None
    logits: Tensor | None  # [W, h, N, K] before the layer, or after one that keeps its lists
    lists: Tensor | None  # [W, h, N, K] before the layer; None where it sees all keys
    kept: Tensor | None  # [W, h, N, P] after it; None where lists stay as they are
    log_sum: Tensor  # [W, h, N]
    window: int
    scale: float


class _Results(NamedTuple):
    """What is written, some windows and a head at a time."""

    d_q: Tensor
    d_k: Tensor
    d_v: Tensor
    d_logits: Tensor | None
    pairs: Tensor  # [h or 1, N, N], gradient of the bias


class _Maps(NamedTuple):
    """Maps of some windows [c, N, N]; half precision has its own for what is multiplied again."""

    products: Tensor  # of grad and v, float32 at least
    scores: Tensor  # of q and k
    gradient: Tensor  # of the logits, in the type of q; ``products`` itself where that is its type
    weights: Tensor  # of kept keys; ``scores`` itself likewise

    def of(self, count: int) -> _Maps:
        """Those of fewer windows."""
        return self if count == len(self.products) else _Maps(*(x[:count] for x in self))


def select_gradients(arguments: SelectBackward) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the table of a layer that sees all keys and keeps some."""
    grad, grad_logits, q, k, v, table, regions, kept, log_sum, window = arguments
    layer = _Layer(grad, grad_logits, q, k, v, table, regions, None, None, kept, log_sum, window, 1.0)
    d_q, d_k, d_v, _, pairs = _gradients(layer)
    return d_q, d_k, d_v, pair_sums(pairs, window).to(table.dtype)


def sparse_gradients(arguments: SparseBackward) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, the table and the logits of a layer whose queries have lists."""
    grad, grad_logits, q, k, v, table, logits, lists, kept, log_sum, window, scale = arguments
    layer = _Layer(grad, grad_logits, q, k, v, table, None, logits, lists, kept, log_sum, window, scale)
    d_q, d_k, d_v, d_logits, pairs = _gradients(layer)
    assert d_logits is not None
    return d_q, d_k, d_v, pair_sums(pairs, window).to(table.dtype), d_logits


def _gradients(layer: _Layer) -> _Results:
    """The gradient of the table is left as that of the bias."""
    q, k, v, grad = layer.q, layer.k, layer.v, layer.grad
    windows, heads, tokens, _ = q.shape
    kernels = has_kernels(q, tokens)
    if kernels:
        layer = _dense(layer)
    bias = None if kernels or layer.kept is None else dense_bias(layer.table, layer.window)
    maps, results = _room(layer), _results(layer)
    by_head = [x.unbind(1) for x in (q, k, v, grad, results.d_q, results.d_k, results.d_v)]
    with without_autocast(q.device):
        for some, head in parts(windows, heads, tokens * tokens):
            few_q, few_k, few_v, few_grad, d_q, d_k, d_v = (x[head][some] for x in by_head)
            few = maps.of(len(few_q))
            multiply(few_grad, few_v.mT, few.products)
            if layer.kept is not None:
                multiply(few_q, few_k.mT, few.scores)
            if kernels:
                _rows_by_kernels(layer, few, results, some, head)
            else:
                few = _rows(layer, few, results, some, head, bias)
            results.pairs[head % len(results.pairs)] += few.gradient.sum(0, dtype=results.pairs.dtype)
            store(few.weights.mT, few_grad, d_v)
            store(few.gradient, few_k, d_q, layer.scale)
            store(few.gradient.mT, few_q, d_k, layer.scale)
    return results


def _dense(layer: _Layer) -> _Layer:
    """What belongs to queries as the kernels read it."""

    def dense(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.contiguous()

    return layer._replace(
        grad_next=dense(layer.grad_next),
        table=layer.table.contiguous(),
        regions=dense(layer.regions),
        logits=dense(layer.logits),
        lists=dense(layer.lists),
        kept=dense(layer.kept),
        log_sum=layer.log_sum.contiguous(),
    )


def _room(layer: _Layer) -> _Maps:
    q = layer.q
    windows, _, tokens, _ = q.shape
    shape = (windows_at_once(windows, tokens * tokens), tokens, tokens)
    dtype = torch.promote_types(q.dtype, torch.float32)
    products, scores = q.new_empty(2, *shape, dtype=dtype).unbind(0)
    if q.dtype == dtype:
        return _Maps(products, scores, products, scores)
    return _Maps(products, scores, q.new_empty(shape), q.new_empty(shape))


def _results(layer: _Layer) -> _Results:
    q, logits, table = layer.q, layer.logits, layer.table
    pairs = q.new_zeros(table.shape[1], q.shape[2], q.shape[2], dtype=torch.promote_types(q.dtype, torch.float32))
    d_logits = None if logits is None else logits.new_empty(logits.shape)
    d_q, d_k, d_v = (x.new_empty(x.shape) for x in (q, layer.k, layer.v))
    return _Results(d_q, d_k, d_v, d_logits, pairs)


def _rows_by_kernels(layer: _Layer, maps: _Maps, results: _Results, some: slice, head: int) -> None:
    """Gradient and weights out of products and scores, and the gradient of the logits."""
    torch.ops.focalsr.map_focus(
        maps.products,
        None if layer.kept is None else maps.scores,
        layer.logits,
        layer.log_sum,
        layer.grad_next,
        layer.lists,
        layer.kept,
        layer.table,
        layer.regions,
        results.d_logits,
        maps.gradient,
        maps.weights,
        layer.window,
        some.start,
        head,
        layer.scale,
    )


def _rows(layer: _Layer, maps: _Maps, results: _Results, some: slice, head: int, bias: Tensor | None) -> _Maps:
    """The same by PyTorch's operators, with the bias [h or 1, N, N] of a layer that chooses keys."""
    products, scores = maps.products, maps.scores
    log_sum = layer.log_sum[some, head, :, None]
    keys = None if layer.lists is None else layer.lists[some, head].long()
    logits: Tensor = scores if layer.logits is None else layer.logits[some, head]
    if layer.kept is None:
        assert keys is not None
        kept = keys
        own = weights = (logits - log_sum).exp_()
    else:
        assert bias is not None
        kept = layer.kept[some, head].long()
        scores.mul_(layer.scale).add_(bias[head % len(bias)])
        if layer.regions is not None:
            scores += _mask(layer.regions, some, scores.dtype)
        if keys is not None:
            logits = logits + scores.gather(-1, keys)
        weights = logits.sub_(logits.amax(-1, keepdim=True) + log_sum).exp_()
        own = (weights if keys is None else scores.scatter_(-1, keys, weights)).gather(-1, kept)
    d_kept = products.gather(-1, kept).mul_(own)
    others = -d_kept.sum(-1, keepdim=True) * weights
    if layer.grad_next is not None:
        d_kept += layer.grad_next[some, head]
    if keys is None:
        gradient, free = scores.copy_(others), products
    else:
        gradient, free = products.zero_().scatter_(-1, keys, others), scores
    gradient.scatter_(-1, kept, d_kept.add_(gradient.gather(-1, kept)))
    if results.d_logits is not None:
        assert keys is not None
        results.d_logits[some, head] = gradient.gather(-1, keys)
    spread = free.zero_().scatter_(-1, kept, own)
    if maps.gradient.dtype != gradient.dtype:
        return maps._replace(gradient=maps.gradient.copy_(gradient), weights=maps.weights.copy_(spread))
    return maps._replace(gradient=gradient, weights=spread)


def _mask(regions: Tensor, some: slice, dtype: torch.dtype) -> Tensor:
    """[c, N, N] of some of the windows, whose images have regions [n, N]."""
    windows = torch.arange(some.start, some.stop, device=regions.device) % len(regions)
    return dense_mask(regions[windows], dtype)
