"""Focused attention: attention in windows whose layers hand on which keys mattered, and how much (PFT).

A layer's attention map is multiplied by the map of the layer before it and normalised again; from some layer on, each
query keeps its K strongest keys and the layers that follow look at no others. The product of softmax maps is the
softmax of the sum of their logits, so layers hand on cumulative logits and lists of keys, and as long as all keys are
kept not even those: logits that sum over layers are one product of the layers' queries and keys joined side by side.

Shapes: B images of n windows each, W = B * n windows (image after image), h heads, w side of a window, N = w * w tokens
in it, D width of a head, S width of the joined queries and keys, K length of a list, T = (2w-1)^2 rows of a bias table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ops import build
from ops.autocast import as_autocast
from ops.focused.composed import composed_focus
from ops.focused.native import native_focus
from ops.focused.reference import reference_focus
from ops.focused.state import FocusInputs, FocusState
from ops.registry import AUTO, REFERENCE, Backend, Operator, exporting
from utils.errors import InputError


def focused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    state: FocusState | None = None,
    *,
    window: int,
    topk: int,
    regions: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> tuple[Tensor, FocusState]:
    """One layer of focused attention; ``state`` comes from the layer before it and is left as it is.

    Under autocast q, k, v are taken in its type. Logits, their softmax and what is handed on are float32 at least.
    Gradients flow through the state: a later layer's loss reaches the queries and keys of earlier ones. The selection
    has none. It depends on the numbers alone, not on threads or runs; of equal keys the first are kept.

    Args:
        q: [W, h, N, D].
        k: [W, h, N, D], type of ``q``.
        v: [W, h, N, D], type of ``q``.
        table: [T, h] bias by where the query is as seen from the key, or [T, 1] for all heads alike.
        state: of the layer before, None for the first.
        window: w.
        topk: keys that a query keeps; if that is no fewer than it has, all of them.
        regions: [n, N] uint8, the region of each token in each of the n windows of an image, or None: as long as all
            keys are there, tokens of different regions do not see each other. Their cumulative logit is lowered by 100
            once; the published formulas, and the reference, lower it in each of these layers. Both leave weights that
            vanish in float32 beside the largest of the row, as long as no hidden logit is larger by 80 than all that
            are seen. A query that keeps more keys than its region has keeps hidden ones of these weights.
        scale: of the logits; D ** -0.5 by default.
        backend: "auto", "native", "composed" or "reference" (see :func:`ops.explain`). The reference multiplies maps,
            as published; its states fit no other backend, and "auto" stays with it.

    Returns:
        The sum of values [W, h, N, D] in the type of ``q`` (of autocast, under autocast), weights of keys that were
        not kept missing in it, and the state for the next layer.

    Raises:
        InputError: shapes or types do not fit, or the chosen backend cannot serve this call.
    """
    _check(q, k, v, table, state, window, topk, regions)
    (q, k, v), context = as_autocast(q, k, v)
    if backend == AUTO and state is not None and state.weights is not None:
        backend = REFERENCE
    sparse = state is not None and state.index is not None
    length = state.index.shape[-1] if state is not None and state.index is not None else q.shape[2]
    call = FocusCall(q.device.type, selects=topk < length, sparse=sparse, dtype=q.dtype, length=length)
    chosen = FOCUSED_ATTENTION.choose(call, backend)
    if state is not None and (state.weights is not None) != (chosen.name == REFERENCE):
        raise InputError(
            f"focused_attention: backend {chosen.name} cannot go on from a state of "
            f"{'the reference' if state.weights is not None else 'another backend'}; choose one for all layers"
        )
    inputs = FocusInputs(q, k, v, table, regions, window, topk, q.shape[-1] ** -0.5 if scale is None else scale)
    with context:
        return chosen.run(inputs, state)


FocusFunction = Callable[[FocusInputs, FocusState | None], tuple[Tensor, FocusState]]


class FocusCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    selects: bool = True
    sparse: bool = True
    dtype: torch.dtype = torch.float32
    length: int = 64  # keys that a query has before the layer


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    state: FocusState | None,
    window: int,
    topk: int,
    regions: Tensor | None,
) -> None:
    if q.ndim != 4 or k.shape != q.shape or v.shape != q.shape:
        raise InputError(
            f"focused_attention: q, k, v are {list(q.shape)}, {list(k.shape)}, {list(v.shape)}, "
            "expected the same [windows, heads, tokens, width] thrice"
        )
    if not q.is_floating_point() or k.dtype != q.dtype or v.dtype != q.dtype:
        raise InputError(
            f"focused_attention: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}, expected one floating-point type"
        )
    windows, heads, tokens, _ = q.shape
    if window < 1 or tokens != window * window:
        raise InputError(f"focused_attention: windows of {window} x {window} have not {tokens} tokens, as q says")
    if topk < 1:
        raise InputError(f"focused_attention: topk must be at least 1, got {topk}")
    rows = (2 * window - 1) ** 2
    if table.ndim != 2 or table.shape[0] != rows or table.shape[1] not in (1, heads) or not table.is_floating_point():
        raise InputError(
            f"focused_attention: the table is {list(table.shape)} of {table.dtype}, expected floating-point "
            f"[{rows}, {heads}] or [{rows}, 1] for a window of {window} and {heads} heads"
        )
    others = {"k": k, "v": v, "the table": table}
    if regions is not None:
        others["regions"] = regions
        if regions.ndim != 2 or regions.shape[1] != tokens or regions.dtype != torch.uint8:
            raise InputError(
                f"focused_attention: regions are {list(regions.shape)} of {regions.dtype}, expected uint8 "
                f"[windows of an image, {tokens}]"
            )
        if regions.shape[0] == 0 or windows % regions.shape[0] != 0:
            raise InputError(
                f"focused_attention: {windows} windows cannot be images of {regions.shape[0]} windows each, "
                "as the regions say; expected a multiple"
            )
    if state is not None:
        others["the state"] = state.tensor
        if state.tensor.shape[:3] != q.shape[:3]:
            raise InputError(
                f"focused_attention: the state belongs to {list(state.tensor.shape[:3])} windows, heads and tokens, "
                f"q is {list(q.shape)}; expected the same"
            )
    for name, tensor in others.items():
        if tensor.device != q.device:
            raise InputError(f"focused_attention: {name} is on {tensor.device}, expected {q.device}, where q is")


def _native_refusal(call: FocusCall) -> str | None:
    if exporting():
        return "an exported program must run without this project's operators"
    if call.device == "cuda":
        return _cuda_refusal(call)
    if call.device != "cpu":
        return f"there are kernels for cpu and cuda only, and the tensors are on {call.device}"
    if call.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        return f"its kernels know no {call.dtype}"
    return None


def _missing(call: FocusCall) -> str | None:
    extension = build.cuda_extension if call.device == "cuda" else build.cpu_extension
    return extension("focus_sparse" if call.sparse else "focus_select")


_LONGEST_CUDA_LIST = 512
"""kLongestList of ops/csrc/focus_sparse_cuda.h."""
_MOST_CUDA_TOKENS = 1024
"""kMostTokens of ops/csrc/focus_select_cuda.h."""


def _cuda_refusal(call: FocusCall) -> str | None:
    if call.sparse and call.length > _LONGEST_CUDA_LIST:
        return f"its CUDA kernels take lists of at most {_LONGEST_CUDA_LIST} keys, and these have {call.length}"
    if not call.sparse and call.selects and call.length > _MOST_CUDA_TOKENS:
        return f"its CUDA kernels select among at most {_MOST_CUDA_TOKENS} tokens, and a window has {call.length}"
    if call.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"its CUDA kernels know no {call.dtype}"
    return None


def _examples() -> Mapping[str, FocusCall]:
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return {
        f"{device}, {name}": FocusCall(device, selects, sparse)
        for device in devices
        for name, selects, sparse in (
            ("all keys", False, False),
            ("all keys, selects", True, False),
            ("listed keys", True, True),
        )
    }


FOCUSED_ATTENTION: Operator[FocusCall, FocusFunction] = Operator(
    name="focused_attention",
    backends=(
        Backend(
            "native",
            native_focus,
            refusal=_native_refusal,
            remark="one query at a time; no map of queries and keys exists",
            missing=_missing,
        ),
        Backend(
            "composed",
            composed_focus,
            refusal=lambda call: None,
            remark="PyTorch's operators on cumulative logits; slower, and it needs maps of some windows at a time",
        ),
        Backend(
            "reference",
            reference_focus,
            refusal=lambda call: None,
            remark="the published formulas; slowest, and every layer keeps its map",
        ),
    ),
    examples=_examples,
)

__all__ = ["FOCUSED_ATTENTION", "FocusState", "focused_attention"]
