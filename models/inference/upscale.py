"""Upscaling with a network: any image size, any batch, whole or in tiles, with or without self-ensemble.

What size of input a network wants is said by its ``size_rule``; padding to it, and cropping the output, happen here and
nowhere else.

Shapes: B images, C channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from archs.contract import contract_of
from archs.layers.size import SizeRule
from models.inference.tiling import OverlappingTiles, Tiling, aligned_tile, largest_tiles
from models.inference.views import Tile, View, pad_to_rule
from ops.kept_memory import memory_kept
from utils.errors import InputError
from utils.scale import scaled_length

Watch = Callable[[float], None]
Put = Callable[[int, int, Tensor], None]

_LARGE = 64 * 64  # pixels; the tensors of fewer are kept by the heap of the C library


def upscale(
    network: nn.Module,
    lq: Tensor,
    tile: int | None = None,
    overlap: int = 32,
    self_ensemble: bool = False,
    tiling: Tiling | None = None,
    multiple: int = 1,
    watch: Watch | None = None,
) -> Tensor:
    """Upscale images: [3, h, w] or [B, 3, h, w] -> the same with height and width multiplied by the network's scale.

    The network runs in evaluation mode, and every module is put back into the mode it was in. Gradients are recorded
    if ``lq.requires_grad`` (attribution maps), and not otherwise. It computes in its own type, such as float16; the
    result has that of ``lq``.

    Args:
        network: meets :class:`archs.contract.SRNetwork`, or has at least a ``scale``; multiples of one that is not
            whole are rounded. Its ``size_rule`` says what input sizes it wants.
        lq: floats, R G B in [0, 1]. May lie on another device than the network: tiles are sent to the network one at a
            time, and the result lies where ``lq`` does, so an image need not fit into the network's device.
        tile: side of the tiles in low-resolution pixels, overlap included; None for the whole image at once. Lowered
            to what the network's alignment allows. Tiling equals the whole image exactly if the network's receptive
            radius is at most half of the overlap; otherwise it approximates it.
        overlap: low-resolution pixels that neighbouring tiles have in common, at least. Seams run through its middle.
        self_ensemble: mean over the eight flips and rotations of the image.
        tiling: another way of cutting tiles, instead of ``tile`` and ``overlap``.
        multiple: the image is extended to multiples of this, even if the network takes any size; the result is cropped.
        watch: called with the share of the work that was just done, after each tile.
    """
    if tile is not None and tiling is None:
        tiling = overlapping_tiles(network, tile, overlap, multiple)
    whole = Assembled(lq, contract_of(network).scale)
    upscale_in_parts(whole.put, network, lq, tiling, self_ensemble, multiple, watch, overlap)
    return whole.images if lq.ndim == 4 else whole.images[0]


def overlapping_tiles(network: nn.Module, tile: int, overlap: int, multiple: int = 1) -> OverlappingTiles:
    """Tiles of a side of ``tile`` pixels, or of what the network's alignment allows; see :func:`upscale`.

    Raises:
        InputError: such tiles cannot work with this overlap and this network.
    """
    return OverlappingTiles(aligned_tile(tile, overlap, _size_rule(network, multiple)), overlap)


def upscale_in_parts(
    put: Put,
    network: nn.Module,
    lq: Tensor,
    tiling: Tiling | None = None,
    self_ensemble: bool = False,
    multiple: int = 1,
    watch: Watch | None = None,
    overlap: int = 32,
) -> None:
    """:func:`upscale` with a result that is handed over in parts, and is nowhere held as a whole.

    Args:
        put: called with the row and the column at which a part begins, and the part, [B, 3, rows, columns], on the
            device of the network or of ``lq``; it is not to be changed. The parts cover the result once. They are
            tiles, or with ``self_ensemble`` bands of a tile's height.
        network: as for :func:`upscale`.
        lq: as there.
        tiling: how tiles are cut; None for the whole image at once.
        self_ensemble: as there.
        multiple: as there.
        watch: as there.
        overlap: of the tiles into which an image is cut that is larger than the network takes, where ``tiling`` cuts
            none.

    Raises:
        InputError: tiles were asked of a scale that is not whole, or are larger than the network takes.
    """
    offered = contract_of(network)
    _check_input(lq, offered.channels)
    scale, rule = offered.scale, _size_rule(network, multiple)
    batch = lq if lq.ndim == 4 else lq[None]
    cut = _largest_tiles(batch, rule, overlap, self_ensemble) if tiling is None else tiling
    check_whole(network, cut, multiple)
    symmetries = [(flip, turns) for flip in (False, True) for turns in range(4)] if self_ensemble else [(False, 0)]
    views = [View(batch, flip, turns, rule, cut) for flip, turns in symmetries]
    count = sum(view.tiles for view in views)

    def run(view: View, tile: Tile) -> Tensor:
        """What is kept of the network's output for one tile, turned as the images are."""
        output = _run(network, pad_to_rule(view.patch(tile), rule), scale)
        rows, columns = (
            slice(scaled_length(span.keep_start - span.start, scale), scaled_length(span.keep_stop - span.start, scale))
            for span in (tile.row, tile.column)
        )
        part = view.turned_back(output[..., rows, columns])
        if watch is not None:
            watch(1 / count)
        return part

    with (
        torch.set_grad_enabled(torch.is_grad_enabled() and lq.requires_grad),
        evaluation_mode(network),
        memory_kept_for(network, len(batch) * batch.shape[-2] * batch.shape[-1]),
    ):
        if self_ensemble:
            _put_means(put, run, views, scale)
            return
        for band in views[0].bands():
            for item in band.tiles:
                put(scaled_length(band.top, scale), scaled_length(item.left, scale), run(views[0], item))


def memory_kept_for(network: nn.Module, pixels: int) -> AbstractContextManager[None]:
    """Memory is kept from one operator to the next, where images are large enough for that to save time.

    Runtimes, whose networks have no parameters here, see to theirs.

    Args:
        network: that is going to run, within.
        pixels: of the images that it is given.
    """
    like = next(network.parameters(), None)
    return nullcontext() if like is None or pixels < _LARGE else memory_kept(like.device)


def _largest_tiles(
    images: Tensor, rule: SizeRule, overlap: int, self_ensemble: bool
) -> tuple[OverlappingTiles, OverlappingTiles] | None:
    """How rows and columns of images are cut that are larger than a network takes; None where they are not."""
    if rule.largest is None:
        return None
    h, w = (rule.padded(length) for length in images.shape[-2:])
    rows, columns = (max(h, w), max(h, w)) if self_ensemble else (h, w)  # turned, the one are as many as the other
    height, width = rule.largest
    if rows <= height and columns <= width:
        return None
    return largest_tiles(rows, height, overlap, rule), largest_tiles(columns, width, overlap, rule)


def check_whole(network: nn.Module, tiling: Tiling | tuple[Tiling, Tiling] | None = None, multiple: int = 1) -> None:
    """Whether images may be cut, or extended, in this way; arguments as for :func:`upscale`.

    Raises:
        InputError: the scale is not whole, and tiles were asked for, or multiples of a window.
    """
    scale = contract_of(network).scale
    if not isinstance(scale, int) and (tiling is not None or _size_rule(network, multiple).multiple > 1):
        raise InputError(
            f"images are upscaled by {scale:g} as a whole: tiles, and images extended to multiples of a window, would "
            "end between pixels; choose a whole scale, or neither"
        )


def _size_rule(network: nn.Module, multiple: int) -> SizeRule:
    """The sizes that the network wants, and multiples of ``multiple``."""
    rule = contract_of(network).size_rule
    return dataclasses.replace(rule, multiple=math.lcm(rule.multiple, multiple))


class Assembled:
    """The images that the parts of :func:`upscale_in_parts` make, on the device and of the type of ``lq``."""

    def __init__(self, lq: Tensor, scale: float) -> None:
        self.lq = lq
        self.height, self.width = (scaled_length(length, scale) for length in lq.shape[-2:])
        self._images: Tensor | None = None

    def put(self, top: int, left: int, part: Tensor) -> None:
        """Take one part, [B, C, rows, columns]."""
        rows, columns = part.shape[-2:]
        if (rows, columns) == (self.height, self.width):
            self._images = part.to(self.lq.device)
            return
        if self._images is None:
            self._images = self.lq.new_empty(*part.shape[:2], self.height, self.width)
        self._images[..., top : top + rows, left : left + columns] = part

    @property
    def images(self) -> Tensor:
        """[B, C, s*h, s*w]."""
        assert self._images is not None
        return self._images


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode; afterwards every module is in the mode in which it was."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _put_means(put: Put, run: Callable[[View, Tile], Tensor], views: Sequence[View], scale: float) -> None:
    """Means over the dihedral group of the square, in bands of the first view, from the top to the bottom.

    Views that are upside down are cut at other rows. A band is worked off as soon as the view before has been added
    there: few sums are unfinished at a time, and in every pixel the views are added in their order, so that the result
    does not depend on the tiles' order.
    """
    images = views[0].images
    width = scaled_length(images.shape[-1], scale)
    waiting = [deque(view.bands()) for view in views]
    done = [0] * len(views)  # rows of the images to which a view has been added
    sums: deque[tuple[int, Tensor]] = deque()  # the first row, and [B, C, rows, s*w]
    while waiting[-1]:
        k = next(
            k for k in reversed(range(len(views))) if waiting[k] and (k == 0 or done[k - 1] >= waiting[k][0].bottom)
        )
        band = waiting[k].popleft()
        top, bottom = scaled_length(band.top, scale), scaled_length(band.bottom, scale)
        if k == 0:
            sums.append((top, images.new_zeros(*images.shape[:2], bottom - top, width)))
        for tile in band.tiles:
            left = scaled_length(tile.left, scale)
            part = run(views[k], tile).to(images.device)
            for start, total in sums:
                first, last = max(top, start), min(bottom, start + total.shape[-2])
                if first < last:
                    columns = slice(left, left + part.shape[-1])
                    total[..., first - start : last - start, columns] += part[..., first - top : last - top, :]
        done[k] = band.bottom
        while sums and k == len(views) - 1 and sums[0][0] + sums[0][1].shape[-2] <= bottom:
            start, total = sums.popleft()
            put(start, 0, total.div_(len(views)))
            del total  # before the next one is made


def _run(network: nn.Module, x: Tensor, scale: float) -> Tensor:
    """The network's output for one tensor, on the network's device, in the tensor's type; its shape checked."""
    like = next(network.parameters(), x)
    dtype = getattr(network, "input_dtype", like.dtype)  # one in half precision may cast by itself
    output: Tensor = network(x.to(like.device, dtype)).to(x.dtype)
    B, C, h, w = x.shape
    expected = [B, C, scaled_length(h, scale), scaled_length(w, scale)]
    if list(output.shape) != expected:
        raise ValueError(
            f"{type(network).__name__} made {list(output.shape)} of an input {list(x.shape)}; with scale {scale}, "
            f"expected {expected}"
        )
    return output


def _check_input(lq: Tensor, channels: int) -> None:
    shape = list(lq.shape)
    if lq.ndim not in (3, 4) or shape[-3] != channels:
        raise ValueError(f"expected an image [{channels}, h, w] or a batch [B, {channels}, h, w], got shape {shape}")
    if 0 in shape:
        raise ValueError(f"there is nothing to upscale in a tensor of shape {shape}")
    if not lq.is_floating_point():
        raise ValueError(f"expected floats in [0, 1], got {lq.dtype}; 8-bit images must be divided by 255")
