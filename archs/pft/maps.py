"""What a pixel of the image attends to, layer by layer: read off the states that layers hand on.

Shapes: B images, H W low-resolution pixels, w side of a window, N = w*w pixels in it, h heads, K keys of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from archs.layers.mask import shift_regions
from archs.pft.bands import FocusBands
from archs.pft.blocks import AttentionTransformerLayer
from archs.pft.network import PFT, mirror_index
from ops import FocusState
from ops.focused.table import base_row, token_positions
from ops.window.region_mask import dense_mask
from utils.errors import InputError


class AttentionMap(NamedTuple):
    """Where one pixel looks in one layer.

    Attributes:
        layer: number of the layer, from 0.
        pixel: (row, column) of the pixel that looks, in the image.
        rows: [h, K] int64, rows of the image; a pixel and its mirror images beyond the border are the same place.
        columns: [h, K] int64.
        weights: [h, K], what each place counts; sums to 1 in layers that drop no keys, and to less where keys are
            dropped or where the last selection has dropped some.
    """

    layer: int
    pixel: tuple[int, int]
    rows: Tensor
    columns: Tensor
    weights: Tensor


def attention_maps(
    network: PFT, x: Tensor, layers: Sequence[int], pixels: Sequence[tuple[int, int]], image: int = 0
) -> list[AttentionMap]:
    """Run the network and read off the attention of a few pixels. Nothing is changed, and nothing slower elsewhere.

    Args:
        network: the network.
        x: [B, c, H, W], as the network takes it.
        layers: numbers of layers, from 0.
        pixels: (row, column) of pixels of the low-resolution image.
        image: which of the B.

    Returns:
        One map for each layer and pixel, layer by layer.

    Raises:
        InputError: there is no such layer, pixel or image.
    """
    found = network.focused_layers()
    if not all(0 <= number < len(found) for number in layers):
        raise InputError(f"attention_maps: layers are {list(layers)}, expected numbers from 0 to {len(found) - 1}")
    H, W = x.shape[2:]
    if not all(0 <= row < H and 0 <= column < W for row, column in pixels) or not 0 <= image < x.shape[0]:
        raise InputError(
            f"attention_maps: pixels are {[tuple(pixel) for pixel in pixels]} of image {image}, expected places in "
            f"{x.shape[0]} images of {H} x {W}"
        )
    wanted = [(int(row), int(column)) for row, column in pixels]
    maps: dict[tuple[int, tuple[int, int]], AttentionMap] = {}

    def read(number: int) -> Any:
        def hook(module: AttentionTransformerLayer, arguments: Any, result: tuple[Tensor, Any]) -> None:
            for pixel in wanted:
                maps[number, pixel] = _map(module, number, result[1], pixel, (H, W), image)

        return hook

    # Read at once: the next layer may use the state up.
    hooks = [found[number].register_forward_hook(read(number)) for number in set(layers)]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [maps[number, pixel] for number in layers for pixel in wanted]


def _map(
    layer: AttentionTransformerLayer,
    number: int,
    state: FocusState | FocusBands,
    pixel: tuple[int, int],
    size: tuple[int, int],
    image: int,
) -> AttentionMap:
    w = layer.window[0]
    padded = (-(-size[0] // w) * w, -(-size[1] // w) * w)
    rolled = tuple((place - layer.shift) % side for place, side in zip(pixel, padded, strict=True))
    in_row = padded[1] // w
    window = rolled[0] // w * in_row + rolled[1] // w  # of the image
    token = rolled[0] % w * w + rolled[1] % w
    place = image * (padded[0] // w * in_row) + window  # of the batch
    if isinstance(state, FocusBands):
        state, place = state.find(place)
    regions = None
    if layer.shift:
        regions = shift_regions(padded, layer.window, (layer.shift, layer.shift), state.tensor.device)[window]
    keys, weights = _row(state, place, token, w, regions)
    places = []
    for axis, (corner, inside) in enumerate(((rolled[0] // w * w, keys // w), (rolled[1] // w * w, keys % w))):
        pixels = (corner + inside + layer.shift) % padded[axis]
        places.append(mirror_index(size[axis], padded[axis], pixels.device)[pixels])
    return AttentionMap(number, pixel, places[0], places[1], weights)


def _row(state: FocusState, window: int, token: int, side: int, regions: Tensor | None) -> tuple[Tensor, Tensor]:
    """Keys [h, K] and weights of one query of a window, whatever kind of state it is."""
    heads = state.tensor.shape[1]
    every = torch.arange(side * side, device=state.tensor.device).expand(heads, -1)
    if state.weights is not None:
        keys = every if state.index is None else state.index[window, :, token]
        return keys, state.weights[window, :, token].clone()  # not the whole map with it
    if state.index is not None:
        assert state.logits is not None
        assert state.log_sum is not None
        logits = state.logits[window, :, token] - state.log_sum[window, :, token, None]
        return state.index[window, :, token].long(), logits.exp()
    assert state.q is not None
    assert state.k is not None
    assert state.table is not None
    dtype = torch.promote_types(state.q.dtype, torch.float32)
    logits = (state.k[window].to(dtype) @ state.q[window, :, token, :, None].to(dtype))[..., 0]  # [h, N]
    position = token_positions(side, every.device)
    logits = logits + state.table[position[token] - position + base_row(side)].t()
    if regions is not None:
        logits = logits + dense_mask(regions[None], dtype)[0, token]
    return every, logits.softmax(-1)
