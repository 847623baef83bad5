"""Bias of attention logits by relative position: a small table, and which of its rows each query-key pair takes.

Shapes: T rows of the table, h heads, N queries and M keys of a window.

The dense bias is h * N * M numbers drawn from T * h. Gathering rows head by head is a copy at memory speed, and the
gradient of the table is a sum over the pairs of each row. PyTorch's own gradient of ``table[index]`` is slow on the
CPU and either slow or in random order on CUDA, hence the two small operators below: each cell of the gradient has one
owner, which adds in a fixed order.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ops.registration import register
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


class Gather(NamedTuple):
    """The arguments of ``focalsr::relative_bias``."""

    table: Tensor  # [T, h]
    rows_of_pairs: Tensor  # [N, M], the index


class GatherBackward(NamedTuple):
    """The arguments of its gradient: a sum over the pairs of each row."""

    gradient: Tensor  # [h, N, M]
    rows_of_pairs: Tensor  # [N, M], the index
    rows: int | torch.SymInt  # T


def _gather(table: Tensor, index: Tensor) -> Tensor:
    dense: Tensor = torch.ops.focalsr.relative_bias(*Gather(table, index))
    return dense


def _relative_bias(arguments: Gather) -> Tensor:
    table, index = arguments
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


def _fake(arguments: Gather) -> Tensor:
    table, index = arguments
    return table.new_empty(table.shape[1], *index.shape)


def _relative_bias_backward(arguments: GatherBackward) -> Tensor:
    gradient, index, rows = arguments
    # float32 at least: a row sums up to N * M / T terms, times as many as there are windows.
    values = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).flatten(1)
    if gradient.device.type == "cpu":
        return scatter_sum(values, index.flatten().long(), int(rows)).to(gradient.dtype)
    return sorted_sum(values, _runs(index, int(rows))).to(gradient.dtype)


def _fake_backward(arguments: GatherBackward) -> Tensor:
    return arguments.gradient.new_empty(arguments.rows, arguments.gradient.shape[0])


def scatter_sum(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """Values [h, P] summed by index [P] -> [rows, h]; on the CPU one thread owns a head, in the order of the pairs."""
    sums = values.new_zeros(len(values), rows)
    return sums.scatter_add_(1, index.expand(len(values), -1), values).t().contiguous()


class Runs(NamedTuple):
    """The pairs of each row, one row after the other.

    Attributes:
        order: [P] int64, the pairs sorted by row.
        lengths: [T] int64, how many each row has.
    """

    order: Tensor
    lengths: Tensor


def runs_of(index: Tensor, rows: int) -> Runs:
    """Sort pairs by the row that each takes; nothing waits for the device.

    Args:
        index: [P], rows of the pairs.
        rows: T.
    """
    taken, order = index.sort(stable=True)
    ends = torch.searchsorted(taken, torch.arange(rows, device=index.device, dtype=index.dtype), right=True)
    return Runs(order, ends.diff(prepend=ends.new_zeros(1)))


def sorted_sum(values: Tensor, runs: Runs) -> Tensor:
    """The same for devices whose scatter adds in random order: values [h, P] in the order of rows, summed by runs."""
    return torch.segment_reduce(values.t()[runs.order], "sum", lengths=runs.lengths, axis=0, unsafe=True)


# Sorting a million pairs takes longer than adding them, and all layers and steps share a few indices.
_sorted: MutableMapping[Tensor, tuple[int, int, Runs]] = WeakIdKeyDictionary()


def _runs(index: Tensor, rows: int) -> Runs:
    """:func:`runs_of` an index [N, M], kept as long as the index lives and is not written to."""
    if index.is_inference():
        return runs_of(index.flatten(), rows)
    known = _sorted.get(index)
    if known is None or known[:2] != (rows, index._version):
        known = _sorted[index] = (rows, index._version, runs_of(index.flatten(), rows))
    return known[2]


def _keep(ctx: Any, arguments: Gather, output: Tensor) -> None:
    ctx.save_for_backward(arguments.rows_of_pairs)
    ctx.rows = arguments.table.shape[0]


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (index,) = ctx.saved_tensors
    return torch.ops.focalsr.relative_bias_backward(*GatherBackward(gradient, index, ctx.rows)), None


def _keep_backward(ctx: Any, arguments: GatherBackward, output: Tensor) -> None:
    ctx.save_for_backward(arguments.rows_of_pairs)


def _differentiate_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    (index,) = ctx.saved_tensors
    return _gather(gradient, index), None, None


register(
    "relative_bias", Gather, "Tensor",
    kernel=_relative_bias, fake=_fake, keep=_keep, differentiate=_differentiate,
)  # fmt: skip
register(
    "relative_bias_backward", GatherBackward, "Tensor",
    kernel=_relative_bias_backward, fake=_fake_backward, keep=_keep_backward, differentiate=_differentiate_backward,
)  # fmt: skip
