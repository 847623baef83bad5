"""Pictures of the maps of :mod:`analysis.maps`, without matplotlib.

Shapes: h w low-resolution pixels, C channels; p filtered channels, k side of the large kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.drawing import SEISMIC, Panel, Pixels, coloured, colours, named_colours, scaled_to_unit, sheet
from analysis.maps import Array, DynamicKernels, ImportanceMap, channel_grid, components, energy
from data.images.files import to_uint8

_SHOWN = 16  # channels of a feature map


@dataclass(frozen=True)
class FeaturePicture:
    """What a feature map looks like.

    Attributes:
        name: of the module.
        energy: [h, w] in [0, 1].
        components: [h, w, 3] in [0, 1].
        explained: share of the variance of each component.
        channels: how many there are.
        grid: of the first channels, in [-1, 1], NaN between them.
        largest: the magnitude that is 1 in the grid.
    """

    name: str
    energy: Array
    components: Array
    explained: tuple[float, ...]
    channels: int
    grid: Array
    largest: float


def feature_picture(name: str, features: Tensor) -> FeaturePicture:
    """Of the features [C, h, w] of a module."""
    found = components(features)
    grid, largest = channel_grid(features, most=_SHOWN)
    return FeaturePicture(name, energy(features), found.picture, found.explained, features.shape[0], grid, largest)


def feature_sheet(lr: Tensor, pictures: Sequence[FeaturePicture]) -> Pixels:
    """The picture [1, c, h, w], then energy, components and channels of each module, a row for each."""
    rows = [[_lr_panel(lr)]]
    for one in pictures:
        shares = " ".join(f"{100 * share:.0f}%" for share in one.explained)
        shown = min(_SHOWN, one.channels)
        rows.append([
            Panel(_magma(one.energy), f"{one.name} energy"),
            Panel(np.rint(255 * one.components).astype(np.uint8), f"components {shares}"),
            Panel(diverging(one.grid), f"channels 1-{shown} of {one.channels}, +-{one.largest:.3g}"),
        ])  # fmt: skip
    return sheet(rows)


def importance_sheet(lr: Tensor, found: Sequence[ImportanceMap]) -> Pixels:
    """Importance, gate and their product: columns are attentions; of each, a row has one scale, the next row many.

    The caption of the first says the range that all maps share, those of the second each map's own: within one map the
    values differ little, and a gate is far below 1.

    Args:
        lr: the picture, [1, c, h, w].
        found: by attention, in depth order.
    """
    rows = [[_lr_panel(lr)]]
    quantities: list[tuple[str, Callable[[ImportanceMap], Array]]] = [
        ("importance", lambda one: one.importance), ("gate", lambda one: one.gate),
        ("gate x importance", lambda one: one.weight),
    ]  # fmt: skip
    for title, of in quantities:
        low = min(float(of(one).min()) for one in found)
        high = max(float(of(one).max()) for one in found)
        captions = [f"{title} {low:.3g}..{high:.3g}", *[""] * (len(found) - 1)]
        shared = [scaled_to_unit(of(one), low, high) for one in found]
        rows.append([Panel(_magma(values), caption) for values, caption in zip(shared, captions, strict=True)])
        rows.append([
            Panel(_magma(scaled_to_unit(of(one))), f"{one.name} {float(of(one).min()):.3g}..{float(of(one).max()):.3g}")
            for one in found
        ])  # fmt: skip
    return sheet(rows)


def kernel_sheet(shared: Array, generated: Sequence[DynamicKernels], lr: Tensor | None = None) -> Pixels:
    """The shared kernel, and for a picture the generated ones: a row for each layer, a column for each channel."""
    largest = float(shared.max())
    panels = [Panel(_magma(shared / largest if largest > 0 else shared), f"shared, RMS 0..{largest:.3g}")]
    if lr is not None:
        panels.insert(0, _lr_panel(lr))
    rows = [panels]
    if generated:
        kernels = torch.from_numpy(np.concatenate([one.kernels for one in generated]))
        grid, most = channel_grid(kernels, columns=len(generated[0].kernels), most=len(kernels))
        caption = f"generated: {len(generated)} layers (rows) x {len(generated[0].kernels)} channels, +-{most:.3g}"
        rows.append([Panel(_enlarged(diverging(grid), 420), caption)])
    return sheet(rows)


def diverging(values: Array) -> Pixels:
    """Values in [-1, 1] from blue over white to red; NaN is white."""
    return coloured(0.5 + np.nan_to_num(values) / 2, colours(SEISMIC))


def _magma(values: Array) -> Pixels:
    return coloured(values, named_colours("magma"))


def _enlarged(pixels: Pixels, columns: int) -> Pixels:
    factor = max(1, -(-columns // pixels.shape[1]))
    return pixels.repeat(factor, 0).repeat(factor, 1)


def _lr_panel(lr: Tensor) -> Panel:
    image = to_uint8(lr[0].float().cpu())
    return Panel(image, f"LR {lr.shape[3]} x {lr.shape[2]}")
