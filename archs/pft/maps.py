"""What a pixel of the image attends to, layer by layer, as lists of the keys that it keeps.

Shapes: B images, H W low-resolution pixels, N pixels in a window, h heads, K keys of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from archs.contract import image_axis
from archs.observation import SeenAttention, attention_seen_by
from archs.pft.network import PFT
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

    :mod:`analysis.attention` looks at networks of all kinds.

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
    count = len(network.focused_layers())
    if not all(0 <= number < count for number in layers):
        raise InputError(f"attention_maps: layers are {list(layers)}, expected numbers from 0 to {count - 1}")
    H, W = x.shape[2:]
    if not all(0 <= row < H and 0 <= column < W for row, column in pixels) or not 0 <= image < x.shape[0]:
        raise InputError(
            f"attention_maps: pixels are {[tuple(pixel) for pixel in pixels]} of image {image}, expected places in "
            f"{x.shape[0]} images of {H} x {W}"
        )
    wanted = [(int(row), int(column)) for row, column in pixels]
    axes = [image_axis(network, side, x.device)[:, 0] for side in (H, W)]
    maps: dict[tuple[int, tuple[int, int]], AttentionMap] = {}

    def see(seen: SeenAttention) -> None:
        places, call = seen.places, seen.call
        for pixel in wanted:
            window, query = places.find(*pixel)
            number = image * len(places.queries) + window - seen.first  # in the call
            if not 0 <= number < call.windows:
                continue
            weights, keys = call.kept(slice(number, number + 1), slice(query, query + 1))
            kept = places.keys[window].expand(call.heads, -1) if keys is None else places.keys[window][keys[0, :, 0]]
            rows, columns = axes[0][kept // places.size[1]], axes[1][kept % places.size[1]]
            # A copy: a view would hold the whole map.
            maps[seen.module, pixel] = AttentionMap(seen.module, pixel, rows, columns, weights[0, :, 0].clone())

    with attention_seen_by(network, see, set(layers)), torch.no_grad():
        network(x)
    return [maps[number, pixel] for number in layers for pixel in wanted]
