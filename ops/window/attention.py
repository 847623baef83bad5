"""Attention inside windows with a position bias and a mask: the public function and the table of its backends.

Shapes: B images of n windows each, W = B * n windows (image after image), h heads, N queries and M keys per window,
D width of queries and keys, E width of values (E = D in most networks).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ops.autocast import takes_autocast
from ops.observed import AttentionCall, observer
from ops.registry import Operator
from ops.window import chunked, flex, native, reference, sdpa
from ops.window.arguments import WindowArguments, WindowCall, WindowFunction, call_of, check
from ops.window.region_mask import RegionMask, is_regions
from ops.window.relative_bias import RelativeBias
from utils.devices import types_here
from utils.errors import InputError


@takes_autocast("q", "k", "v")
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
        backend: "auto", "native", "sdpa", "chunked", "flex" or "reference" (see :func:`ops.explain`).
        dropout: probability to drop an attention weight; the caller passes 0 in evaluation.
        strict: False makes ``backend`` a preference: where it does not suit, "auto" decides, and that is said once.

    Returns:
        [W, h, N, E], type of ``q`` (of autocast, under autocast).

    Raises:
        InputError: shapes or types do not fit, or the chosen backend cannot serve this call.
    """
    dense = bias.dense() if isinstance(bias, RelativeBias) else bias
    regions = _regions(mask) if isinstance(mask, RegionMask) else mask
    if scale is None:
        scale = q.shape[-1] ** -0.5 if q.ndim else 1.0
    arguments = WindowArguments(q, k, v, dense, regions, scale)
    check(arguments)
    chosen = WINDOW_ATTENTION.choose(call_of(arguments, dropout=dropout > 0), backend, strict=strict)
    # Of dropout all but the reference have refused to hear.
    out = reference.reference_attention(arguments, dropout) if dropout > 0 else chosen.run(arguments)
    watch = observer()
    if watch is not None:
        watch(AttentionCall(arguments))
    return out


def _regions(mask: RegionMask) -> Tensor:
    """The regions [n, N] of a mask, which stand in the place of a floating-point mask from here on."""
    if mask.regions.ndim != 2 or not is_regions(mask.regions):
        raise InputError(
            f"RegionMask: the regions are {list(mask.regions.shape)} of {mask.regions.dtype}, expected uint8 [windows "
            "of an image, tokens]"
        )
    return mask.regions


def _examples() -> Mapping[str, WindowCall]:
    devices = types_here()
    return {
        f"{device}, {name}": call
        for device in devices
        for name, call in (
            ("evaluation", WindowCall(device)),
            ("evaluation, shifted", WindowCall(device, masked=True)),
            ("training", WindowCall(device, gradient=True)),
            ("few keys", WindowCall(device, few_keys=True)),
            ("dropout", WindowCall(device, dropout=True)),
            ("gradient of the mask", WindowCall(device, masked=True, mask_gradient=True)),
        )
    }


WINDOW_ATTENTION: Operator[WindowCall, WindowFunction] = Operator(
    name="window_attention",
    backends=(native.BACKEND, sdpa.BACKEND, chunked.BACKEND, flex.BACKEND, reference.BACKEND),
    examples=_examples,
)
