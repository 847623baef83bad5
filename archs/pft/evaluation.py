"""Layers of PFT in evaluation, by kernels that do several steps at once.

A layer is then six passes over the pixels in place of twenty: windows are cut where the projection to queries, keys
and values reads its rows, and joined where the last projection does; normalisations and sums belong to the products.
Modules are not called one by one: where somebody watches them (hooks), and where the kernels do not serve, the layers'
own forward runs.

Shapes: B images, H W low-resolution pixels, C channels, n windows of an image, N pixels in a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from archs.layers.linear import Linear
from archs.layers.mask import shift_regions
from archs.layers.watched import watched
from archs.layers.window import shifted_places, unshifted_places
from ops import GELU_DEPTHWISE, LINEAR_ROWS, FocusState, call_of_rows, depthwise_gelu, gelu_depthwise, linear_rows
from ops.mlp.gelu_depthwise import GeluDepthwiseCall
from ops.mlp.linear_rows import RowNorm
from ops.registry import NATIVE, recording

if TYPE_CHECKING:
    from archs.pft.attention import FocusedAttentionBase
    from archs.pft.blocks import ConvFFN


def serves(x: Tensor, layer: nn.Module) -> bool:
    """Whether a layer, or a part of one, can go this way: kernels serve, no gradient is wanted, nobody watches."""
    if torch.is_grad_enabled() or recording() or type(x) is not Tensor or watched(*layer.modules()):
        return False
    call = call_of_rows(x, *(part.weight for part in layer.modules() if isinstance(part, Linear)))
    if LINEAR_ROWS.choose(call).name != NATIVE:
        return False
    return GELU_DEPTHWISE.choose(GeluDepthwiseCall(x.device.type)).name == NATIVE


def attended(
    layer: FocusedAttentionBase, x: Tensor, state: FocusState | None, norm: nn.LayerNorm
) -> tuple[Tensor, FocusState]:
    """X and the layer's attention of it, which goes through ``norm`` first, added up.

    Args:
        layer: the layer.
        x: [B, H, W, C].
        state: of the layer before.
        norm: the normalisation.

    Returns:
        [B, H, W, C] and the new state.
    """
    B, H, W, C = x.shape
    size, shift, (w, _) = (H, W), layer.shift, layer.window
    pixels = x.reshape(-1, C)
    there = shifted_places(layer.window, size, shift, B, x.device)
    back = unshifted_places(layer.window, size, shift, B, x.device)
    qkv = projected(pixels, layer.wqkv, norm, order=there)  # [B*n*N, 3C]
    regions = shift_regions(size, layer.window, (shift, shift), x.device) if shift else None
    out, state = layer.focus(qkv.view(-1, w * w, 3 * C), state, regions)
    conv = layer.v_LePE.layer
    local = depthwise_gelu(qkv[:, 2 * C :], back, size, conv.weight, cast("Tensor", conv.bias))
    proj = layer.attn_win.proj
    y = linear_rows(
        out.reshape(-1, C), proj.weight, proj.bias, order=back, added=local.view(-1, C), residual=pixels
    )  # fmt: skip
    return y.view(x.shape), state


def mixed(mlp: ConvFFN, x: Tensor, norm: nn.LayerNorm, *, residual: bool) -> Tensor:
    """The MLP of x [B, H, W, C], which goes through ``norm`` first, and x added to it if wanted -> [B, H, W, C]."""
    pixels = x.reshape(-1, x.shape[-1])
    hidden = projected(pixels, mlp.fc1, norm).view(*x.shape[:3], -1)
    conv = mlp.dwconv.layer
    hidden = gelu_depthwise(hidden, conv.weight, cast("Tensor", conv.bias)).flatten(0, 2)
    y = linear_rows(hidden, mlp.fc2.weight, mlp.fc2.bias, residual=pixels if residual else None)
    return y.view(x.shape)


def projected(pixels: Tensor, layer: nn.Linear, norm: nn.LayerNorm, order: Tensor | None = None) -> Tensor:
    """Rows [R, K] normalised and projected, in some order -> [M, C]."""
    rows = RowNorm(norm.weight, norm.bias, norm.eps)
    return linear_rows(pixels, layer.weight, layer.bias, order=order, norm=rows)
