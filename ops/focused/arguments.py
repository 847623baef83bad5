"""What a layer of focused attention is given, and what it hands on. Shapes as in ops/focused/attention.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ops.cache import cached_constant


@dataclass(frozen=True)
class FocusState:
    """What a layer hands on to the next one that looks at the same windows; None stands for "no layer yet".

    As long as every key is kept: queries, keys and tables of the layers so far. Then: lists and logits on them. The
    reference has weights in the place of all these, beside a list once there is one.

    Attributes:
        q: [W, h, N, S] the layers' queries side by side, multiplied by the scale.
        k: [W, h, N, S] their keys.
        table: [T, h or 1] the sum of their bias tables.
        logits: [W, h, N, K] sum of the layers' logits, minus a constant for each query; float32 at least.
        index: [W, h, N, K] the keys, ascending; int16, or int32 for more than 32767 tokens. int64 in the reference.
        log_sum: [W, h, N] with which ``exp(logits - log_sum)`` are the weights of the layer; without a gradient.
        weights: [W, h, N, K or N] the reference's map.
    """

    q: Tensor | None = None
    k: Tensor | None = None
    table: Tensor | None = None
    logits: Tensor | None = None
    index: Tensor | None = None
    log_sum: Tensor | None = None
    weights: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """One of the tensors, to read off windows, heads, tokens and device."""
        found = next(x for x in (self.q, self.logits, self.weights) if x is not None)
        assert found is not None
        return found


@dataclass(frozen=True)
class FocusInputs:
    """The arguments of :func:`ops.focused_attention`."""

    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor
    regions: Tensor | None
    window: int
    topk: int
    scale: float


def joined(inputs: FocusInputs, state: FocusState | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and table of all layers so far, this one included, while all keys are kept.

    Returns:
        q and k [W, h, N, S] with the scale in q, table [T, h or 1].
    """
    q = inputs.q * inputs.scale
    if state is None:
        return q, inputs.k, inputs.table
    assert state.q is not None
    assert state.k is not None
    assert state.table is not None
    return torch.cat([state.q, q], -1), torch.cat([state.k, inputs.k], -1), state.table + inputs.table


def list_dtype(tokens: int) -> torch.dtype:
    """The smallest type for lists of keys."""
    return torch.int16 if tokens <= torch.iinfo(torch.int16).max + 1 else torch.int32


@cached_constant(16)
def token_positions(window: int, device: torch.device) -> Tensor:
    """Numbers p [N] int64: the row of a bias table for query i and key j is ``p[i] - p[j] + base_row(window)``."""
    row = torch.arange(window, device=device)
    return (row[:, None] * (2 * window - 1) + row).flatten()


@cached_constant(16)
def position_index(window: int, device: torch.device) -> Tensor:
    """Rows of a bias table for all queries and keys, [N, N] int64."""
    position = token_positions(window, device)
    return position[:, None] - position + base_row(window)


def base_row(window: int) -> int:
    """The row of a bias table for a query and a key at the same place."""
    return (window - 1) * 2 * window
