"""When layers of PFT are evaluated by kernels that do several steps at once, and one of these steps.

A layer is then six passes over the pixels in place of twenty: windows are cut where the projection to queries, keys
and values reads its rows, and joined where the last projection does; normalisations and sums belong to the products.
Modules are not called one by one: where somebody watches them (hooks), and where the kernels do not serve, the layers'
usual forward runs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archs.layers.linear import Linear
from archs.layers.watched import watched
from ops import GELU_DEPTHWISE, LINEAR_ROWS, call_of_rows, linear_rows
from ops.mlp.gelu_depthwise import GeluDepthwiseCall
from ops.mlp.linear_rows import RowNorm
from ops.registry import NATIVE, recording


def serves(x: Tensor, layer: nn.Module) -> bool:
    """Whether a layer, or a part of one, can go this way: kernels serve, no gradient is wanted, nobody watches."""
    if torch.is_grad_enabled() or recording() or type(x) is not Tensor or watched(*layer.modules()):
        return False
    call = call_of_rows(x, *(part.weight for part in layer.modules() if isinstance(part, Linear)))
    if LINEAR_ROWS.choose(call).name != NATIVE:
        return False
    return GELU_DEPTHWISE.choose(GeluDepthwiseCall(x.device.type)).name == NATIVE


def projected(pixels: Tensor, layer: nn.Linear, norm: nn.LayerNorm, order: Tensor | None = None) -> Tensor:
    """Rows [R, K] normalised and projected, in some order -> [M, C]."""
    rows = RowNorm(norm.weight, norm.bias, norm.eps)
    return linear_rows(pixels, layer.weight, layer.bias, order=order, norm=rows)
