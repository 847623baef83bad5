"""The definition of focused attention: the published formulas, map by map. Shapes as in ops/focused/attention.py.

It holds several maps [W, h, N, N] at once, as the published network does; everything else is compared with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ops.focused.arguments import FocusArguments, FocusCall, FocusFunction, FocusState
from ops.focused.table import position_index
from ops.registry import REFERENCE, Backend
from ops.sparse.smm import smm_amv, smm_qmk
from ops.window.region_mask import dense_mask
from utils.devices import without_values

_EPS = 1e-20


def reference_focus(arguments: FocusArguments) -> tuple[Tensor, FocusState]:
    """One layer; half precision is computed in float32."""
    state = arguments.state
    dtype = torch.promote_types(arguments.q.dtype, torch.float32)
    q, k, v = (x.to(dtype) for x in (arguments.q, arguments.k, arguments.v))
    before = None if state is None else state.weights
    index = None if state is None else state.index
    tokens = q.shape[2]
    bias = dense_bias(arguments.table, arguments.window).to(dtype)  # [h or 1, N, N]
    if index is None:
        logits = (q * arguments.scale) @ k.transpose(-2, -1) + bias
        if arguments.regions is not None:
            by_image = logits.view(-1, len(arguments.regions), *logits.shape[1:])  # [B, n, h, N, N]
            logits = (by_image + dense_mask(arguments.regions, dtype)[:, None]).flatten(0, 1)
    else:
        listed_bias = bias.expand(len(q), q.shape[1], -1, -1).gather(-1, index)
        logits = _listed_logits(q * arguments.scale, k, index) + listed_bias
    weights = logits.softmax(-1)
    if before is not None:
        weights = weights * before
        weights = (weights + _EPS) / (weights.sum(-1, keepdim=True) + _EPS)
    if arguments.topk < tokens:
        weights, kept = weights.topk(min(arguments.topk, weights.shape[-1]), dim=-1)
        index = kept if index is None else index.gather(-1, kept)
    out = weights @ v if index is None else _listed_values(weights, v, index)
    return out.to(arguments.q.dtype), FocusState(weights=weights, index=index)


def _listed_logits(q: Tensor, k: Tensor, index: Tensor) -> Tensor:
    """Products at listed keys, [W, h, N, K]: of all of them; where they are counted, of the listed ones alone."""
    if without_values(q.device):
        return smm_qmk(q.flatten(0, 1), k.flatten(0, 1).mT, index.flatten(0, 1)).view(index.shape)
    return (q @ k.transpose(-2, -1)).gather(-1, index)


def _listed_values(weights: Tensor, v: Tensor, index: Tensor) -> Tensor:
    """The sum of listed values, [W, h, N, D]; counted as :func:`_listed_logits`."""
    if without_values(v.device):
        return smm_amv(weights.flatten(0, 1), v.flatten(0, 1), index.flatten(0, 1)).view(v.shape)
    return v.new_zeros(*weights.shape[:3], v.shape[2]).scatter(-1, index, weights) @ v


def dense_bias(table: Tensor, window: int) -> Tensor:
    """[T, h] -> [h, N, N]."""
    return table[position_index(window, table.device)].permute(2, 0, 1)


BACKEND: Backend[FocusCall, FocusFunction] = Backend(
    REFERENCE,
    reference_focus,
    refusal=lambda call: None,
    merit="the published formulas, which serve every call",
    shortfall="slowest, and every layer keeps its map",
)
