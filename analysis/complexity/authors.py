"""The counters of authors who count in a way of their own: what their printed figures are compared with."""

from __future__ import annotations

import math

from torch import nn

from archs.layers.upsample import HEAD_WIDTH
from archs.pft import PFT


def own_count(network: nn.Module, height: int, width: int) -> int | None:
    """Multiply-adds of one image of this size as the network's authors count; None where they have no such counter."""
    if not isinstance(network, PFT):
        return None
    per_pixel = _pft_per_pixel(network)
    return None if per_pixel is None else per_pixel * height * width


def _pft_per_pixel(network: PFT) -> int | None:
    """PFT's published counter, per low-resolution pixel (Long et al., CVPR 2025; the image is not padded).

    It takes the keys that each layer uses, counts a third of the convolution after the body (3 C^2 of 9 C^2), stages of
    the upsampling at the low resolution, and 3 channels of the one-step head; it leaves out the convolutions around the
    stages and the norms of layers. None for heads that were not published.
    """
    channels = network.norm.normalized_shape[0]
    tokens = network.window_size**2
    total, kept = 0, [tokens, tokens]
    layers = network.focused_layers()
    for layer in layers:
        chain = 1 if layer.shift else 0
        before = kept[chain]
        kept[chain] = min(before, layer.topk)
        taps = layer.v_LePE.layer.kernel_size[0] ** 2
        ffn = layer.convffn
        hidden = ffn.fc1.out_features
        total += channels * (3 * channels + taps + before + kept[chain] + channels + 2 * hidden) + hidden * taps
    total += len(network.layers) * 9 * channels**2 + 3 * channels**2
    total += 27 * channels + channels * isinstance(network.patch_embed.norm, nn.LayerNorm)
    if network.upsampler == "pixelshuffledirect":
        return total + 27 * channels
    if network.upsampler == "pixelshuffle":
        factors = [3] if network.scale == 3 else [2] * round(math.log2(network.scale))
        return total + sum(9 * HEAD_WIDTH * HEAD_WIDTH * factor**2 for factor in factors)
    return None
