"""Attention inside windows with a position bias and a mask: the public function, its reference, its backends.

Shapes: B images of n windows each, W = B * n windows (image after image), h heads, N queries and M keys per window,
D width of queries and keys, E width of values (E = D in most networks).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.attention_sdpa import sdpa_attention
from ops.registry import Backend, Operator, exporting
from ops.relative_bias import RelativeBias
from utils.errors import InputError


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | RelativeBias | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
    dropout: float = 0.0,
) -> Tensor:
    """``softmax(q k^T * scale + bias + mask) v`` in each window.

    Windows need not be square, keys may outnumber queries, and one "window" per image is attention over the whole
    image. Under autocast q, k, v are taken in its type; the softmax is computed in float32 at least.

    Args:
        q: [W, h, N, D].
        k: [W, h, M, D], type of ``q``.
        v: [W, h, M, E], type of ``q``.
        bias: [h, N, M], or a table with an index, shared by all windows.
        mask: [n, N, M], added for all heads; window ``b * n + i`` takes mask ``i``. 0 and -100 (or -inf) where
            Swin-like networks shift their windows. A row must leave at least one finite logit.
        scale: of the logits; D ** -0.5 by default.
        backend: "auto", "sdpa" or "reference" (see :func:`ops.explain`).
        dropout: probability to drop an attention weight; the caller passes 0 in evaluation.

    Returns:
        [W, h, N, E], type of ``q`` (of autocast, under autocast).

    Raises:
        InputError: shapes or types do not fit, or the chosen backend cannot serve this call.
    """
    dense = bias.dense() if isinstance(bias, RelativeBias) else bias
    device = q.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        q, k, v = (_autocast(x, torch.get_autocast_dtype(device)) for x in (q, k, v))
        with torch.autocast(device, enabled=False):
            return _run(q, k, v, dense, mask, scale, backend, dropout)
    return _run(q, k, v, dense, mask, scale, backend, dropout)


def reference_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, scale: float, dropout: float = 0.0
) -> Tensor:
    """The definition, step by step; half precision is computed in float32. Shapes as :func:`window_attention`."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    logits = (q.to(dtype) * scale) @ k.to(dtype).transpose(-2, -1)  # [W, h, N, M]
    if bias is not None:
        logits = logits + bias.to(dtype)
    if mask is not None:
        by_image = logits.view(-1, mask.shape[0], *logits.shape[1:])  # [B, n, h, N, M]
        logits = (by_image + mask.to(dtype)[:, None]).flatten(0, 1)
    weights = logits.softmax(-1)
    if dropout > 0:
        weights = F.dropout(weights, dropout)
    return (weights @ v.to(dtype)).to(q.dtype)


AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, float, float], Tensor]


class AttentionCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    dropout: bool = False
    mask_gradient: bool = False
    few_keys: bool = False


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    scale: float | None,
    backend: str,
    dropout: float,
) -> Tensor:
    _check_shapes(q, k, v, bias, mask)
    _check_types(q, k, v, bias, mask)
    call = AttentionCall(
        device=q.device.type,
        dropout=dropout > 0,
        mask_gradient=mask is not None and mask.requires_grad and torch.is_grad_enabled(),
        # Not asked of a program that is exported for many sizes: it takes one way for all of them.
        few_keys=not exporting() and k.shape[2] <= max(k.shape[3], v.shape[3]),
    )
    chosen = WINDOW_ATTENTION.choose(call, backend)
    return chosen.run(q, k, v, bias, mask, q.shape[-1] ** -0.5 if scale is None else scale, dropout)


def _autocast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """As autocast does for its own operators: float64 stays."""
    return x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None) -> None:
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise InputError(
            f"window_attention: q, k, v are {_shape(q)}, {_shape(k)}, {_shape(v)}, "
            "expected [windows, heads, tokens, width]"
        )
    windows, heads, queries, width = q.shape
    keys = k.shape[2]
    if k.shape[:2] != q.shape[:2] or k.shape[3] != width:
        raise InputError(
            f"window_attention: k is {_shape(k)}, expected [{windows}, {heads}, keys, {width}] beside q {_shape(q)}"
        )
    if v.shape[:3] != k.shape[:3]:
        raise InputError(
            f"window_attention: v is {_shape(v)}, expected [{windows}, {heads}, {keys}, width] beside k {_shape(k)}"
        )
    if queries == 0 or keys == 0:
        raise InputError(f"window_attention: windows of {queries} queries and {keys} keys, expected at least one each")
    if bias is not None and bias.shape != (heads, queries, keys):
        raise InputError(
            f"window_attention: the bias is {_shape(bias)}, expected [heads, queries, keys] = "
            f"[{heads}, {queries}, {keys}]"
        )
    if mask is None:
        return
    if mask.ndim != 3 or mask.shape[1:] != (queries, keys):
        raise InputError(
            f"window_attention: the mask is {_shape(mask)}, expected [windows of an image, queries, keys] = "
            f"[windows, {queries}, {keys}]"
        )
    if mask.shape[0] == 0 or windows % mask.shape[0] != 0:
        raise InputError(
            f"window_attention: {windows} windows cannot be images of {mask.shape[0]} windows each, "
            "as the mask says; expected a multiple"
        )


def _check_types(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None) -> None:
    if not q.is_floating_point() or k.dtype != q.dtype or v.dtype != q.dtype:
        raise InputError(
            f"window_attention: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}, expected one floating-point type"
        )
    for name, tensor in (("k", k), ("v", v), ("the bias", bias), ("the mask", mask)):
        if tensor is None:
            continue
        if tensor.device != q.device:
            raise InputError(f"window_attention: {name} is on {tensor.device}, expected {q.device}, where q is")
        if not tensor.is_floating_point():
            raise InputError(
                f"window_attention: {name} is {tensor.dtype}, expected floating-point numbers that are added to the "
                "logits (0 where attention is allowed, -inf or -100 where not)"
            )


def _shape(x: Tensor) -> str:
    return str(list(x.shape))


def _sdpa_refusal(call: AttentionCall) -> str | None:
    if call.dropout:
        return "attention weights are to be dropped, and it never holds them; use the reference or no dropout"
    if call.mask_gradient:
        return "the mask needs a gradient; detach it, or give it as a bias"
    if call.device not in ("cpu", "cuda"):
        return f"it is tried on cpu and cuda only, and the tensors are on {call.device}"
    return None


def _sdpa_drawback(call: AttentionCall) -> str | None:
    if call.few_keys and call.device == "cpu":
        return "a window has no more keys than a head has channels, so the logits are small and plain products faster"
    return None


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, scale: float, dropout: float
) -> Tensor:
    assert not dropout
    return sdpa_attention(q, k, v, bias, mask, scale)


def _examples() -> Mapping[str, AttentionCall]:
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return {
        f"{device}, {name}": call
        for device in devices
        for name, call in (
            ("evaluation and training", AttentionCall(device)),
            ("few keys", AttentionCall(device, few_keys=True)),
            ("dropout", AttentionCall(device, dropout=True)),
            ("gradient of the mask", AttentionCall(device, mask_gradient=True)),
        )
    }


WINDOW_ATTENTION: Operator[AttentionCall, AttentionFunction] = Operator(
    name="window_attention",
    backends=(
        Backend(
            "sdpa",
            _sdpa,
            refusal=_sdpa_refusal,
            remark="PyTorch's fused attention; the logits are never stored",
            drawback=_sdpa_drawback,
        ),
        Backend(
            "reference",
            reference_attention,
            refusal=lambda call: None,
            remark="slower, and it stores all logits several times",
        ),
    ),
    examples=_examples,
)
