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

from ops import build
from ops.autocast import knows_autocast
from ops.registry import Backend, Operator, exporting
from ops.window.flex import flex_bias_attention, flex_refusal
from ops.window.native import native_attention
from ops.window.region_mask import RegionMask, dense_mask, is_regions
from ops.window.relative_bias import RelativeBias
from ops.window.sdpa import sdpa_attention
from utils.errors import InputError


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | RelativeBias | None = None,
    mask: Tensor | RegionMask | None = None,
    scale: float | None = None,
    backend: str = "auto",
    dropout: float = 0.0,
    strict: bool = True,
) -> Tensor:
    """``softmax(q k^T * scale + bias + mask) v`` in each window.

    Windows need not be square, keys may outnumber queries, and one "window" per image is attention over the whole
    image. Under autocast q, k, v are taken in its type; the softmax is computed in float32 at least.

    Args:
        q: [W, h, N, D].
        k: [W, h, M, D], type of ``q``.
        v: [W, h, M, E], type of ``q``.
        bias: [h, N, M], or a table with an index, shared by all windows.
        mask: [n, N, M], added for all heads; window ``b * n + i`` takes mask ``i``. A row must leave at least one
            finite logit. Or the regions of the tokens, where Swin-like networks shift their windows.
        scale: of the logits; D ** -0.5 by default.
        backend: "auto", "sdpa", "flex" or "reference" (see :func:`ops.explain`).
        dropout: probability to drop an attention weight; the caller passes 0 in evaluation.
        strict: False makes ``backend`` a preference: where it does not suit, "auto" decides, and that is said once.

    Returns:
        [W, h, N, E], type of ``q`` (of autocast, under autocast).

    Raises:
        InputError: shapes or types do not fit, or the chosen backend cannot serve this call.
    """
    dense = bias.dense() if isinstance(bias, RelativeBias) else bias
    if isinstance(mask, RegionMask):
        mask = _regions(mask)
    device = q.device.type
    if knows_autocast(device) and torch.is_autocast_enabled(device):
        q, k, v = (_autocast(x, torch.get_autocast_dtype(device)) for x in (q, k, v))
        with torch.autocast(device, enabled=False):
            return _run(q, k, v, dense, mask, scale, backend, dropout, strict)
    return _run(q, k, v, dense, mask, scale, backend, dropout, strict)


def reference_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, scale: float, dropout: float = 0.0
) -> Tensor:
    """The definition, step by step; half precision is computed in float32.

    Shapes as :func:`window_attention`; for the backends a mask is [n, N, M] floating-point or regions [n, N] uint8.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    logits = (q.to(dtype) * scale) @ k.to(dtype).transpose(-2, -1)  # [W, h, N, M]
    if bias is not None:
        logits = logits + bias.to(dtype)
    if mask is not None:
        by_image = logits.view(-1, mask.shape[0], *logits.shape[1:])  # [B, n, h, N, M]
        logits = (by_image + dense_mask(mask, dtype)[:, None]).flatten(0, 1)
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
    masked: bool = False
    gradient: bool = False
    width: int = 32


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    scale: float | None,
    backend: str,
    dropout: float,
    strict: bool,
) -> Tensor:
    _check_shapes(q, k, v, bias, mask)
    _check_types(q, k, v, bias, mask)
    call = AttentionCall(
        device=q.device.type,
        dropout=dropout > 0,
        mask_gradient=mask is not None and mask.requires_grad and torch.is_grad_enabled(),
        # Not asked of a program that is exported for many sizes: it takes one way for all of them.
        few_keys=not exporting() and k.shape[2] <= max(k.shape[3], v.shape[3]),
        masked=mask is not None,
        gradient=torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, bias)),
        width=min(k.shape[3], v.shape[3]),
    )
    chosen = WINDOW_ATTENTION.choose(call, backend, strict=strict)
    return chosen.run(q, k, v, bias, mask, q.shape[-1] ** -0.5 if scale is None else scale, dropout)


def _regions(mask: RegionMask) -> Tensor:
    """The regions [n, N] of a mask, which stand in the place of a floating-point mask from here on."""
    if mask.regions.ndim != 2 or not is_regions(mask.regions):
        raise InputError(
            f"RegionMask: the regions are {_shape(mask.regions)} of {mask.regions.dtype}, expected uint8 [windows of "
            "an image, tokens]"
        )
    return mask.regions


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
    if is_regions(mask):
        if queries != keys or mask.shape[1] != queries:
            raise InputError(
                f"window_attention: the regions are {_shape(mask)}, expected [windows of an image, tokens] with "
                f"{queries} queries and {keys} keys being the same tokens"
            )
    elif mask.ndim != 3 or mask.shape[1:] != (queries, keys):
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
        if not tensor.is_floating_point() and not (tensor is mask and is_regions(mask)):
            raise InputError(
                f"window_attention: {name} is {tensor.dtype}, expected floating-point numbers that are added to the "
                "logits (0 where attention is allowed, -inf or -100 where not)"
            )


def _shape(x: Tensor) -> str:
    return str(list(x.shape))


def _native_refusal(call: AttentionCall) -> str | None:
    if call.device != "cpu":
        return f"its kernels are for the CPU, and the tensors are on {call.device}"
    if exporting():
        return "an exported program must run without this project's kernels"
    return _fused_refusal(call)


def _fused_refusal(call: AttentionCall) -> str | None:
    if call.dropout:
        return "attention weights are to be dropped, and it never holds them; use the reference or no dropout"
    if call.mask_gradient:
        return "the mask needs a gradient; detach it, or give it as a bias"
    return None


def _sdpa_refusal(call: AttentionCall) -> str | None:
    if call.device not in ("cpu", "cuda"):
        return f"it is tried on cpu and cuda only, and the tensors are on {call.device}"
    return _fused_refusal(call)


def _sdpa_drawback(call: AttentionCall) -> str | None:
    if call.few_keys and call.device == "cpu":
        return "a window has no more keys than a head has channels, so the logits are small and plain products faster"
    return None


def _native(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, scale: float, dropout: float
) -> Tensor:
    assert not dropout
    return native_attention(q, k, v, bias, mask, scale)


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, scale: float, dropout: float
) -> Tensor:
    assert not dropout
    return sdpa_attention(q, k, v, bias, mask, scale)


def _flex_refusal(call: AttentionCall) -> str | None:
    return flex_refusal(
        call.device, call.width, gradient=call.gradient, masked=call.masked, dropout=call.dropout
    )  # fmt: skip


def _flex_drawback(call: AttentionCall) -> str | None:
    if call.device == "cpu":
        return "it compiles for half a minute at its first call, and is no faster on the CPU"
    return None


def _flex(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, scale: float, dropout: float
) -> Tensor:
    assert mask is None
    assert not dropout
    return flex_bias_attention(q, k, v, bias, scale)


def _examples() -> Mapping[str, AttentionCall]:
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return {
        f"{device}, {name}": call
        for device in devices
        for name, call in (
            ("evaluation", AttentionCall(device)),
            ("training", AttentionCall(device, gradient=True)),
            ("few keys", AttentionCall(device, few_keys=True)),
            ("dropout", AttentionCall(device, dropout=True)),
            ("gradient of the mask", AttentionCall(device, mask_gradient=True)),
        )
    }


WINDOW_ATTENTION: Operator[AttentionCall, AttentionFunction] = Operator(
    name="window_attention",
    backends=(
        Backend(
            "native",
            _native,
            refusal=_native_refusal,
            remark="compiled kernels of this project; a block of logits at a time, in the cache",
            missing=lambda call: build.cpu_extension("window"),
        ),
        Backend(
            "sdpa",
            _sdpa,
            refusal=_sdpa_refusal,
            remark="PyTorch's fused attention; the logits are never stored",
            drawback=_sdpa_drawback,
        ),
        Backend(
            "flex",
            _flex,
            refusal=_flex_refusal,
            remark="compiled for the bias, whose gradient it sums in an order that differs from run to run",
            drawback=_flex_drawback,
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
