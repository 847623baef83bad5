"""The arguments of window attention as they travel: the function makes them, checks them, and backends take them.

Shapes: B images of n windows each, W = B * n windows (image after image), h heads, N queries and M keys per window,
D width of queries and keys, E width of values (E = D in most networks).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops.registry import exporting
from ops.window.region_mask import is_regions
from utils.errors import InputError


class WindowArguments(NamedTuple):
    """What every backend is given; dropout, which the reference alone knows, comes beside it."""

    q: Tensor  # [W, h, N, D]
    k: Tensor  # [W, h, M, D], type of q
    v: Tensor  # [W, h, M, E], type of q
    bias: Tensor | None  # [h, N, M]
    mask: Tensor | None  # [n, N, M] floating-point, or regions [n, N] uint8
    scale: float  # of the logits


WindowFunction = Callable[[WindowArguments], Tensor]
"""A backend: [W, h, N, E], type of q."""


class WindowBackward(NamedTuple):
    """What the backward pass of a backend is given, which computes the logits again."""

    grad: Tensor  # [W, h, N, E]
    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    mask: Tensor | None
    scale: float
    bias_gradient: bool  # whether the bias wants one


class WindowCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    dropout: bool = False
    mask_gradient: bool = False
    few_keys: bool = False
    masked: bool = False
    gradient: bool = False
    width: int = 32


def call_of(arguments: WindowArguments, *, dropout: bool) -> WindowCall:
    """What refusals look at."""
    q, k, v, bias, mask, _ = arguments
    return WindowCall(
        device=q.device.type,
        dropout=dropout,
        mask_gradient=mask is not None and mask.requires_grad and torch.is_grad_enabled(),
        # Not asked of a program that is exported for many sizes: it takes one way for all of them.
        few_keys=not exporting() and k.shape[2] <= max(k.shape[3], v.shape[3]),
        masked=mask is not None,
        gradient=torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, bias)),
        width=min(k.shape[3], v.shape[3]),
    )


def never_held(call: WindowCall) -> str | None:
    """Why a backend that never holds the weights of a window cannot serve a call, or None."""
    if call.dropout:
        return "attention weights are to be dropped, and it never holds them; use the reference or no dropout"
    if call.mask_gradient:
        return "the mask needs a gradient; detach it, or give it as a bias"
    return None


def few_keys(call: WindowCall) -> str | None:
    """What speaks against a backend without logits for a call, or None."""
    if call.few_keys and call.device == "cpu":
        return (
            "a window has no more keys than a head has channels: the logits are small, and to avoid storing them costs "
            "more than it saves"
        )
    return None


def token_major(q: Tensor, tokens: int, width: int) -> Tensor:
    """An empty [W, h, tokens, width] laid out as [W, tokens, h, width]: joining the heads of a token is then free."""
    return q.new_empty(q.shape[0], tokens, q.shape[1], width).transpose(1, 2)


def forward_flops(sizes: Any) -> int:
    """Of the two products of :class:`WindowArguments` with these sizes."""
    windows, heads, queries, width = sizes.q
    return int(2 * windows * heads * queries * sizes.k[2] * (width + sizes.v[3]))


def backward_flops(sizes: Any) -> int:
    """Of the five products of a backward pass that computes the logits again."""
    windows, heads, queries, width = sizes.q
    return int(2 * windows * heads * queries * sizes.k[2] * (3 * width + 2 * sizes.v[3]))


def check(arguments: WindowArguments) -> None:
    """Shapes, types and devices fit.

    Raises:
        InputError: with the values, and what was expected.
    """
    q, k, v, bias, mask, _ = arguments  # not by slices or _replace, which the compiler of torch 2.6 does not know
    _check_shapes(q, k, v, bias, mask)
    _check_types(q, k, v, bias, mask)


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
