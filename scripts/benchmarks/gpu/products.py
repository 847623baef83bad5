"""The operators' work in the other ways that PyTorch has: fused attention, FlexAttention, gathered rows.

Shapes: W windows, h heads, N queries, M keys, D width of a head, B = W * h, K slots of a list.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

import ops
from scripts.benchmarks import operators
from scripts.benchmarks.gpu.tables import OPERATOR, Figure
from scripts.benchmarks.measure import Comparison, Work

_FLEX = ("hat", "rgt", "esc")  # windows whose FlexAttention is measured: compiling each takes seconds


def others(row: Comparison) -> Iterator[Figure]:
    """PyTorch's other ways for a row of :mod:`scripts.benchmarks.operators`."""
    name, direction, dtype = parts_of(row.key)
    for (known, kind), attention in operators.ATTENTIONS.items():
        if name == "_".join(filter(None, ("attention", known, kind))):
            yield _figure(row, "SDPA", functools.partial(fused, attention, direction, dtype))
    for (pattern, kind), sparse in operators.SPARSE.items():
        for product in ("qmk", "amv"):
            if name == "_".join(filter(None, (pattern.format(product), kind))):
                yield _figure(row, "gather", functools.partial(gathered, sparse, product, direction, dtype))


def flex() -> Iterator[Figure]:
    """FlexAttention, forward; it has no gradient of a bias that learns."""
    rows = {row.key: row for row in operators.comparisons()}
    for name in _FLEX:
        row = rows[f"ops/attention_{name}_forward"]
        yield _figure(row, "FlexAttention", functools.partial(flexed, operators.ATTENTIONS[name, ""]))


def _figure(row: Comparison, way: str, prepare: Callable[[], Work]) -> Figure:
    short = row.key.removeprefix("ops/")
    return Figure(
        f"operators/{short}/{way.lower()}", "operators", f"{short}: {row.work}", way, prepare, OPERATOR,
        cost=row.cost, needs=row.ours.needs,
    )  # fmt: skip


def parts_of(key: str) -> tuple[str, str, torch.dtype]:
    """Name, direction and type of an operator's row."""
    name = key.removeprefix("ops/")
    dtype = torch.bfloat16 if name.endswith("_bf16") else torch.float32
    name, _, direction = name.removesuffix("_bf16").rpartition("_")
    return name, direction, dtype


def fused(sizes: operators.Attention, direction: str, dtype: torch.dtype) -> Work:
    """PyTorch's fused attention; the bias is its mask, which has to be in the type of the queries."""
    q, k, v, bias = _attention(sizes, dtype)
    return _run(
        lambda: functional.scaled_dot_product_attention(q, k, v, bias.to(dtype)), (q, k, v, bias), direction
    )  # fmt: skip


def flexed(sizes: operators.Attention) -> Work:
    """FlexAttention, compiled."""
    q, k, v, bias = _attention(sizes, torch.float32)
    return torch.no_grad()(lambda: ops.window_attention(q, k, v, bias, backend="flex"))


def _attention(sizes: operators.Attention, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Q [W, h, N, D], k and v [W, h, M, D] as networks cut them out of [W, N, h * D]; a bias [h, N, M] that learns."""
    windows, heads, queries, keys, width = sizes
    q, k, v = (
        torch.randn(windows, tokens, heads, width, dtype=dtype).transpose(1, 2).requires_grad_()
        for tokens in (queries, keys, keys)
    )
    return q, k, v, (0.1 * torch.randn(heads, queries, keys)).requires_grad_()


def gathered(sizes: operators.Sparse, product: str, direction: str, dtype: torch.dtype) -> Work:
    """The sparse products by gathering the row of every slot: [B, N, K, D] at once."""
    batch, tokens, width, slots = sizes
    rows = torch.randn(batch, tokens, width, dtype=dtype, requires_grad=True)
    lists = torch.rand(batch, tokens, tokens).topk(slots).indices  # [B, N, K]
    items = torch.arange(batch)[:, None, None]
    if product == "qmk":
        queries = torch.randn(batch, tokens, width, dtype=dtype, requires_grad=True)
        return _run(
            lambda: (rows[items, lists] @ queries.unsqueeze(-1)).squeeze(-1), (queries, rows), direction
        )  # fmt: skip
    weights = torch.rand(batch, tokens, slots, dtype=dtype, requires_grad=True)
    return _run(lambda: (weights.unsqueeze(-2) @ rows[items, lists]).squeeze(-2), (weights, rows), direction)


def _run(product: Callable[[], Tensor], leaves: tuple[Tensor, ...], direction: str) -> Work:
    """The product without gradients, or its backward pass alone."""
    if direction == "forward":
        return torch.no_grad()(product)
    out = product()
    grad = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)
