"""Evaluation of large images a band of rows at a time and in place, for a fraction of the memory.

What layers hand on is by far the largest of what a PFT holds: 2.3 GB for an image of 512 x 512 pixels in each of two
chains of layers. Where a list is shortened, or comes to be, the old state and the new one would exist side by side, and
beside them queries, keys, values and hidden channels of the whole image. In bands none of these exist but for the rows
at hand: a band's state is handed out to the one layer that goes on from it, and features are overwritten.

Results are those of the layers as they are otherwise: bands consist of whole windows, and what reaches across their
edges, the depthwise convolutions, is given the rows beyond them.

Shapes: B images, H W low-resolution pixels, C channels, n windows of an image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from ops import FocusState
from ops.registry import recording
from utils.devices import without_values
from utils.heap import give_freed_memory_back

BAND_PIXELS = 1 << 14
"""Pixels in a band, unless a row of windows has more: 16 windows of 32 x 32, 150 MB of states with 256 keys."""


class FocusBands:
    """The states of one chain of layers, band by band; a layer that is given it uses it up and puts in its own.

    It also tells the layer that it may overwrite its input.
    """

    def __init__(self) -> None:
        self._states: dict[int, FocusState] = {}

    def take(self, window: int) -> FocusState | None:
        """The state of the band that begins with this window of the batch, once: who takes it alone has it."""
        return self._states.pop(window, None)

    def put(self, window: int, state: FocusState) -> None:
        """Have the state for the next layer."""
        self._states[window] = replace(state, disposable=True)

    def find(self, window: int) -> tuple[FocusState, int]:
        """The state that a window of the batch belongs to, and the window's number in it."""
        first = max(start for start in self._states if start <= window)
        return self._states[first], window - first


def in_bands(x: Tensor) -> bool:
    """Whether features [B, H, W, C] are so many that evaluation goes band by band; never where gradients are wanted."""
    if torch.is_grad_enabled() or recording() or without_values(x.device):
        return False
    return x.shape[0] * x.shape[1] * x.shape[2] > BAND_PIXELS


def give_memory_back(x: Tensor) -> None:
    """Let the system have the memory that was freed on the device of x, if that is the CPU.

    glibc keeps freed tensors of up to 32 MB in its heap, and finds no use for many of them: the next tensor of the same
    size asks for a few bytes more, to be aligned. Measured, 0.9 GB for an image of 512 x 512 pixels.
    """
    if x.device.type == "cpu":
        give_freed_memory_back()


def cut(height: int, width: int, unit: int = 1, least: int = 1) -> list[tuple[int, int]]:
    """Bands (start, stop) of nearly equal heights.

    Args:
        height: of the image, a multiple of ``unit``.
        width: of the image.
        unit: each band's height is a multiple of this.
        least: rows that a band may have, however wide the image is.
    """
    units = height // unit
    count = -(-units // max(1, -(-least // unit), BAND_PIXELS // (unit * width)))
    edges = [units * i // count * unit for i in range(count + 1)]
    return list(itertools.pairwise(edges))


class Surroundings:
    """Of an image [H, W, C] that is to be overwritten: rows at both sides of the edges of bands, as they are now.

    Args:
        image: the image.
        edges: rows that bands begin with.
        radius: rows that are wanted beyond an edge; at the image's border there are none.
    """

    def __init__(self, image: Tensor, edges: Iterable[int], radius: int) -> None:
        self._kept = {edge: _around(image, edge, radius) for edge in edges}

    def above(self, start: int) -> Tensor:
        """Rows before a band that begins here, [at most radius, W, C]."""
        return self._kept[start][0]

    def below(self, stop: int) -> Tensor:
        """Rows after a band that ends here, [at most radius, W, C]."""
        return self._kept[stop][1]


def _around(image: Tensor, edge: int, radius: int) -> tuple[Tensor, Tensor]:
    return image[max(0, edge - radius) : edge].clone(), image[edge : edge + radius].clone()


def add_local(x: Tensor, function: Callable[[Tensor], Tensor], source: Tensor, radius: int) -> None:
    """``x += function(source)`` in bands; ``source`` may be ``x``.

    Args:
        x: [B, H, W, C], overwritten.
        function: [1, rows, W, C] -> the same, for any number of rows, as if there were zeros beyond them.
        source: [B, H, W, C].
        radius: how many rows away the function looks.
    """
    bands = cut(x.shape[1], x.shape[2], least=4 * radius)  # fewer rows than those beyond them would cost too much
    for image, original in zip(x, source, strict=True):
        around = Surroundings(original, {edge for band in bands for edge in band}, radius)
        for start, stop in bands:
            above = around.above(start)
            rows = torch.cat([above, original[start:stop], around.below(stop)])
            image[start:stop] += function(rows[None])[0, len(above) : len(above) + stop - start]
        give_memory_back(x)
