"""Attention inside windows of an image, from its pixels to its pixels.

Nothing is copied into windows: which pixels a window has is a table, whether windows are shifted around the border,
stick out of the image, or look into larger ones around them, which overlap. The compiled kernel,
ops/csrc/window_image_cpu.cpp, leaves out what lies outside of the image and, where that changes no result, pairs of
different regions.

Shapes: B images of P pixels, n windows of an image, N queries and M keys of a window, h heads of width D in G groups,
C = G*h*D.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ops import build
from ops.autocast import autocast_is_on
from ops.observed import observer
from ops.registration import Written, register
from ops.registry import NATIVE, REFERENCE, Backend, Operator, only_on, recording
from ops.window.attention import window_attention
from ops.window.region_mask import RegionMask
from utils.devices import types_here


class ImageWindows(NamedTuple):
    """The windows that a group of heads looks into."""

    places: Tensor  # [n, N] int32, the pixel of an image that a token is; -1 outside of the image
    regions: Tensor | None  # [n, N] uint8, as in a RegionMask
    bias: Tensor | None  # [h, N, M]
    keys: Tensor | None = None  # [n, M] int32, places of the keys where these are not the queries; without regions


class ImageArguments(NamedTuple):
    """The arguments of :func:`image_attention` as they travel."""

    qkv: Tensor  # [B, H, W, 3*C]
    groups: Sequence[ImageWindows]
    heads: int
    scale: float
    values: bool


class ImageCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    dtype: torch.dtype = torch.float32
    autocast: bool = False
    observed: bool = False


class Forward(NamedTuple):
    """The arguments of the compiled kernel, for one group."""

    q: Tensor  # [B*P, h*D], channels side by side
    k: Tensor
    v: Tensor
    bias: Tensor | None
    places: Tensor
    keys: Tensor | None
    regions: Tensor | None
    pixels: int  # P
    heads: int
    scale: float
    out: Written  # [B*P, h*D]


class Backward(NamedTuple):
    """The arguments of its backward pass, which computes the logits again."""

    grad: Tensor  # [B*P, h*D]
    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    places: Tensor
    keys: Tensor | None
    regions: Tensor | None
    pixels: int
    heads: int
    scale: float
    bias_gradient: bool
    d_q: Written  # [B*P, h*D]
    d_k: Written
    d_v: Written


def image_attention(
    qkv: Tensor,
    groups: Sequence[ImageWindows],
    heads: int,
    scale: float,
    *,
    values: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """``softmax(q k^T * scale + bias + mask) v`` in the windows of an image.

    Tokens outside of the image are zeros that take part as keys; the mask is -100 between regions.

    Args:
        qkv: [B, H, W, 3*C], q, k and v side by side, each with the heads of all groups.
        groups: windows and bias of each group of heads.
        heads: h, of each group.
        scale: of the logits.
        values: v is wanted too.
        backend: "auto", "native" or "reference" (see :func:`ops.explain`).

    Returns:
        [B, H, W, C] of the attention; v, [B, H, W, C] without gaps, or None.

    Raises:
        InputError: the chosen backend cannot serve this call.
    """
    return IMAGE_ATTENTION.choose(call_of_image(qkv), backend).run(ImageArguments(qkv, groups, heads, scale, values))


def call_of_image(qkv: Tensor) -> ImageCall:
    """What refusals look at: of q, k, v, or of the weights that make them."""
    device = qkv.device.type
    return ImageCall(device, qkv.dtype, autocast_is_on(device), observer() is not None)


def serves_image(weight: Tensor) -> bool:
    """Whether a kernel is the choice for what a layer with these weights makes; else the caller cuts windows itself."""
    return IMAGE_ATTENTION.choose(call_of_image(weight)).name == NATIVE


def reference_image_attention(arguments: ImageArguments) -> tuple[Tensor, Tensor | None]:
    """The same, by windows that are gathered and put back."""
    qkv, groups, heads, scale, values = arguments
    B, H, W, channels = qkv.shape
    rows = torch.cat([qkv.flatten(1, 2), qkv.new_zeros(B, 1, channels)], 1)  # [B, P + 1, 3*C]
    outside = H * W
    out = []
    for number, (places, regions, bias, keys) in enumerate(groups):
        own = rows.unflatten(2, (3, len(groups), heads, -1))[:, :, :, number]  # [B, P + 1, 3, h, D]

        def gathered(places: Tensor, own: Tensor = own) -> Tensor:
            """Of the tokens at these places, [B*n, h, tokens, 3, D]."""
            return own[:, torch.where(places < 0, outside, places)].flatten(0, 1).permute(0, 3, 1, 2, 4)

        queries = gathered(places)
        q, k, v = queries.unbind(3)  # each [B*n, h, N, D]
        if keys is not None:
            _, k, v = gathered(keys).unbind(3)
        mask = None if regions is None else RegionMask(regions)
        attended = window_attention(q, k, v, bias, mask, scale).transpose(1, 2).reshape(B, places.numel(), -1)
        order = torch.empty(outside + 1, dtype=torch.int64, device=places.device)
        order[torch.where(places < 0, outside, places).flatten()] = torch.arange(places.numel(), device=places.device)
        out.append(attended[:, order[:-1]].view(B, H, W, -1))
    return torch.cat(out, -1), qkv[..., channels // 3 * 2 :].contiguous() if values else None


def native_image_attention(arguments: ImageArguments) -> tuple[Tensor, Tensor | None]:
    """The same, by ops/csrc/window_image_cpu.cpp; once differentiable."""
    qkv, groups, heads, scale, values = arguments
    windows = [(group.places, group.keys, group.regions) for group in groups]
    results: tuple[Tensor, Tensor | None] = _ImageAttention.apply(  # type: ignore[no-untyped-call]
        qkv, windows, heads, scale, values, *(group.bias for group in groups)
    )
    return results


class _ImageAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        windows: Sequence[tuple[Tensor, Tensor | None, Tensor | None]],
        heads: int,
        scale: float,
        values: bool,
        *biases: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.windows, ctx.heads, ctx.scale = windows, heads, scale
        qkv = qkv.contiguous()
        ctx.save_for_backward(qkv, *biases)
        B, H, W, channels = qkv.shape
        out = qkv.new_empty(B, H, W, channels // 3)
        parts = zip(_groups(qkv, 3, len(windows)), _groups(out, 1, len(windows)), windows, biases, strict=True)
        for (q, k, v), (to,), places, bias in parts:
            given = Forward(q, k, v, bias, *places, H * W, heads, scale, to)
            torch.ops.focalsr.image_attention_out(*given)
        return out, qkv[..., channels // 3 * 2 :].contiguous() if values else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_v: Tensor | None) -> tuple[Tensor | None, ...]:
        qkv, *biases = ctx.saved_tensors
        B, H, W, channels = qkv.shape
        if grad is None:
            grad = qkv.new_zeros(B, H, W, channels // 3)
        count = len(ctx.windows)
        grads = _groups(grad.contiguous(), 1, count)
        d_qkv = torch.empty_like(qkv)
        parts = zip(_groups(qkv, 3, count), grads, _groups(d_qkv, 3, count), ctx.windows, biases, strict=True)
        d_biases: list[Tensor | None] = []
        for number, (operands, (own_grad,), results, (places, keys, regions), bias) in enumerate(parts):
            wanted = ctx.needs_input_grad[5 + number]
            given = Backward._make(
                (own_grad, *operands, bias, places, keys, regions, H * W, ctx.heads, ctx.scale, wanted, *results)
            )
            d_bias = torch.ops.focalsr.image_attention_backward_out(*given)
            d_biases.append(d_bias.to(bias.dtype) if wanted else None)
        if grad_v is not None:
            d_qkv[..., channels // 3 * 2 :] += grad_v
        return d_qkv, None, None, None, None, *d_biases


def _groups(x: Tensor, parts: int, groups: int) -> list[tuple[Tensor, ...]]:
    """Rows of pixels of each group: [B, H, W, parts*G*h*D] -> G times ``parts`` views [B*P, h*D]."""
    views = x.flatten(0, 2).unflatten(1, (parts, groups, -1))
    return [views[:, :, number].unbind(1) for number in range(groups)]


def _refusal(call: ImageCall) -> str | None:
    if (elsewhere := only_on(call.device, "cpu")) is not None:
        return elsewhere
    if call.autocast or call.dtype not in (torch.float32, torch.float64):
        return "it serves float32 and float64"
    if call.observed:
        return "attention is observed, for which its windows are needed"
    if recording():
        return "a graph that is compiled or exported consists of windows"
    return None


def _examples() -> Mapping[str, ImageCall]:
    return {device: ImageCall(device) for device in types_here()}


IMAGE_ATTENTION: Operator[ImageCall, Callable[[ImageArguments], tuple[Tensor, Tensor | None]]] = Operator(
    name="image_attention",
    backends=(
        Backend(
            NATIVE,
            native_image_attention,
            refusal=_refusal,
            merit="compiled kernels of this project: no windows are copied, nothing outside of the image is computed",
            missing=lambda call: build.cpu_extension("window_image"),
        ),
        Backend(
            REFERENCE,
            reference_image_attention,
            refusal=lambda call: None,
            merit="window attention of gathered windows, which serves every call",
            shortfall="slower: windows are copied, and padded ones computed as a whole",
        ),
    ),
    examples=_examples,
)


def _flops(sizes: Any, products: int) -> int:
    """Of so many products of each window, whole."""
    windows = sizes.q[0] // sizes.pixels * sizes.places[0]
    return int(2 * products * windows * sizes.places[1] * (sizes.keys or sizes.places)[1] * sizes.q[1])


def _fake_backward(arguments: Backward) -> Tensor:
    queries, keys = arguments.places, arguments.places if arguments.keys is None else arguments.keys
    shape = (arguments.heads, queries.shape[1], keys.shape[1]) if arguments.bias_gradient else (0,)
    return arguments.q.new_empty(shape)


register("image_attention_out", Forward, "()", fake=lambda arguments: None, flops=lambda sizes: _flops(sizes, 2))
register("image_attention_backward_out", Backward, "Tensor", fake=_fake_backward, flops=lambda sizes: _flops(sizes, 5))
