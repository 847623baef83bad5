"""Bias of attention logits by relative position: a small table, and which of its rows each query-key pair takes.

Shapes: T rows of the table, h heads, N queries and M keys of a window.

The dense bias is h * N * M numbers drawn from T * h. Gathering rows head by head is a copy at memory speed, and the
gradient of the table is a sum over the pairs of each row. PyTorch's own gradient of ``table[index]`` is slow on the
CPU and either slow or in random order on CUDA, hence the two small operators below: each cell of the gradient has one
owner, which adds in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ops.registry import exporting
from utils.errors import InputError


@dataclass(frozen=True, eq=False)
class RelativeBias:
    """Bias given as a table and an index.

    Attributes:
        table: [T, h], one row per relative position.
        index: [N, M] int32 or int64, rows of the table; 0 .. T-1. HAT's published index of the overlapping attention
            counts from the end with negative numbers: take it modulo T.
    """

    table: Tensor
    index: Tensor

    def dense(self) -> Tensor:
        """The bias of each query-key pair, [h, N, M], differentiable with respect to the table."""
        if self.table.ndim != 2 or not self.table.is_floating_point():
            raise InputError(
                f"RelativeBias: the table is {list(self.table.shape)} of {self.table.dtype}, "
                "expected floating-point [T, heads]"
            )
        if self.index.ndim != 2 or self.index.dtype not in (torch.int32, torch.int64):
            raise InputError(
                f"RelativeBias: the index is {list(self.index.shape)} of {self.index.dtype}, "
                "expected int32 or int64 [N, M]"
            )
        if exporting():
            return self.table.t()[:, self.index]
        return _gather(self.table, self.index)


@torch.library.custom_op("focalsr::relative_bias", mutates_args=(), schema="(Tensor table, Tensor index) -> Tensor")
def _relative_bias(table: Tensor, index: Tensor) -> Tensor:
    # Per head: reading one row of h numbers for each pair and transposing afterwards takes ten times as long.
    by_head = table.t().contiguous()
    if index.device.type == "cpu" and index.numel():  # elsewhere looking would wait for the device
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= len(table):
            raise InputError(
                f"RelativeBias: the index runs from {low} to {high}, but the table has rows 0 to {len(table) - 1}; "
                "take negative rows modulo the length of the table"
            )
    return by_head.index_select(1, index.flatten()).view(-1, *index.shape)


@_relative_bias.register_fake
def _(table: Tensor, index: Tensor) -> Tensor:
    return table.new_empty(table.shape[1], *index.shape)


@torch.library.custom_op(
    "focalsr::relative_bias_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor index, SymInt rows) -> Tensor",
)
def _relative_bias_backward(gradient: Tensor, index: Tensor, rows: int) -> Tensor:
    # float32 at least: a row sums up to N * M / T terms, times as many as there are windows.
    values = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).flatten(1)
    sums = _scatter_sum if gradient.device.type == "cpu" else _sorted_sum
    return sums(values, index.flatten().long(), rows).to(gradient.dtype)


@_relative_bias_backward.register_fake
def _(gradient: Tensor, index: Tensor, rows: int) -> Tensor:
    return gradient.new_empty(rows, gradient.shape[0])


def _scatter_sum(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """Values [h, P] summed by index [P] -> [rows, h]; on the CPU one thread owns a head, in the order of the pairs."""
    sums = values.new_zeros(len(values), rows)
    return sums.scatter_add_(1, index.expand(len(values), -1), values).t().contiguous()


def _sorted_sum(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """The same for devices whose scatter adds in random order: sort the pairs by row, then sum runs."""
    order = index.argsort(stable=True)
    lengths = torch.bincount(index, minlength=rows)
    return torch.segment_reduce(values.t()[order], "sum", lengths=lengths, axis=0, unsafe=True)


def _gather(table: Tensor, index: Tensor) -> Tensor:
    dense: Tensor = torch.ops.focalsr.relative_bias(table, index)
    return dense


def _setup_gather(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    table, index = inputs
    ctx.save_for_backward(index)
    ctx.rows = table.shape[0]


def _gather_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (index,) = ctx.saved_tensors
    return torch.ops.focalsr.relative_bias_backward(gradient, index, ctx.rows), None


def _setup_sum(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _sum_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    (index,) = ctx.saved_tensors
    return _gather(gradient, index), None, None


_relative_bias.register_autograd(_gather_backward, setup_context=_setup_gather)
_relative_bias_backward.register_autograd(_sum_backward, setup_context=_setup_sum)
