"""Upscaling with a network: any image size, any batch, whole or in tiles, with or without self-ensemble.

What size of input a network wants is said by its ``size_rule``; padding to it, and cropping the output, happen here and
nowhere else.

Shapes: B images, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from archs.layers.size import SizeRule
from utils.errors import InputError


class Span(NamedTuple):
    """One tile along one axis, in low-resolution pixels: what is read, and the part of it that is kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def upscale(
    network: nn.Module, lq: Tensor, tile: int | None = None, overlap: int = 32, self_ensemble: bool = False
) -> Tensor:
    """Upscale images: [3, h, w] or [B, 3, h, w] -> the same with height and width multiplied by the network's scale.

    The network runs in evaluation mode, and every module is put back into the mode it was in. Gradients are recorded
    if ``lq.requires_grad`` (attribution maps), and not otherwise.

    Args:
        network: has an int ``scale``; its ``size_rule``, if it has one, says what input sizes it wants.
        lq: floats, R G B in [0, 1]. May lie on another device than the network: tiles are sent to the network one at a
            time, and the result lies where ``lq`` does, so an image need not fit into the network's device.
        tile: side of the tiles in low-resolution pixels, overlap included; None for the whole image at once. Lowered
            to what the network's alignment allows. Tiling equals the whole image exactly if the network's receptive
            radius is at most half of the overlap; otherwise it approximates it.
        overlap: low-resolution pixels that neighbouring tiles have in common, at least. Seams run through its middle.
        self_ensemble: mean over the eight flips and rotations of the image.
    """
    _check_input(lq)
    scale = _scale(network)
    rule = size_rule(network)
    if tile is not None:
        tile = aligned_tile(tile, overlap, rule)
    batch = lq if lq.ndim == 4 else lq[None]
    recording = torch.is_grad_enabled() and lq.requires_grad
    with torch.set_grad_enabled(recording), evaluation_mode(network):
        if self_ensemble:
            result = _self_ensemble(network, batch, scale, rule, tile, overlap)
        else:
            result = _upscale(network, batch, scale, rule, tile, overlap)
    return result if lq.ndim == 4 else result[0]


def size_rule(network: nn.Module) -> SizeRule:
    """What input sizes the network wants; any size, if it does not say."""
    rule = getattr(network, "size_rule", None)
    return rule if isinstance(rule, SizeRule) else SizeRule()


def tile_spans(length: int, tile: int, overlap: int, alignment: int = 1) -> list[Span]:
    """The tiles along an axis of ``length`` pixels, from the first to the last.

    Starts are multiples of ``alignment``, neighbours share at least ``overlap`` pixels, and the kept parts cover the
    axis without gap or overlap. The last tile ends with the axis; it is as long as alignment allows.

    Args:
        length: pixels to cover.
        tile: length of a tile, at most; at least ``overlap + alignment``.
        overlap: pixels shared by neighbours, at least.
        alignment: of the starts.
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    step = (tile - overlap) // alignment * alignment
    last = -(-(length - tile) // alignment) * alignment
    starts = [*range(0, last, step), last]
    stops = [*(start + tile for start in starts[:-1]), length]
    seams = [(start + stop) // 2 for start, stop in zip(starts[1:], stops[:-1], strict=True)]
    return [Span(*item) for item in zip(starts, stops, [0, *seams], [*seams, length], strict=True)]


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


def _self_ensemble(
    network: nn.Module, lq: Tensor, scale: int, rule: SizeRule, tile: int | None, overlap: int
) -> Tensor:
    """Mean over the dihedral group of the square: transform, upscale, transform back."""
    total = None
    for flip in (False, True):
        for turns in range(4):
            view = torch.rot90(lq.flip(-1) if flip else lq, turns, (-2, -1))
            result = torch.rot90(_upscale(network, view, scale, rule, tile, overlap), -turns, (-2, -1))
            result = result.flip(-1) if flip else result
            total = result if total is None else total + result
    assert total is not None
    return total / 8


def _upscale(network: nn.Module, lq: Tensor, scale: int, rule: SizeRule, tile: int | None, overlap: int) -> Tensor:
    """[B, 3, h, w] -> [B, 3, s*h, s*w], tiled if ``tile`` is given."""
    h, w = lq.shape[-2:]
    padded = pad_to_rule(lq, rule)
    H, W = padded.shape[-2:]
    device = next((parameter.device for parameter in network.parameters()), lq.device)
    if tile is None or tile >= max(H, W):
        return _run(network, padded, scale, device).to(lq.device)[..., : scale * h, : scale * w]
    alignment = math.lcm(rule.multiple, rule.tile_multiple)
    rows, columns = (tile_spans(length, tile, overlap, alignment) for length in (H, W))
    bands = []
    for row in rows:
        parts = []
        for column in columns:
            patch = padded[..., row.start : row.stop, column.start : column.stop]
            part = _run(network, patch, scale, device)[
                ...,
                scale * (row.keep_start - row.start) : scale * (row.keep_stop - row.start),
                scale * (column.keep_start - column.start) : scale * (column.keep_stop - column.start),
            ]
            # A copy, so that the tile's full output does not stay in memory behind the view.
            parts.append(part.to(lq.device, copy=True))
        bands.append(torch.cat(parts, dim=-1)[..., : scale * w])
    return torch.cat(bands, dim=-2)[..., : scale * h, :]


def _run(network: nn.Module, x: Tensor, scale: int, device: torch.device) -> Tensor:
    """The network's output for one tensor, its shape checked."""
    output: Tensor = network(x.to(device))
    B, _, h, w = x.shape
    if output.shape != (B, 3, scale * h, scale * w):
        raise ValueError(
            f"{type(network).__name__} made {list(output.shape)} of an input {list(x.shape)}; with scale {scale}, "
            f"expected {[B, 3, scale * h, scale * w]}"
        )
    return output


def pad_to_rule(x: Tensor, rule: SizeRule) -> Tensor:
    """Extend [..., h, w] to the right and below to a size that the rule allows.

    "reflect" mirrors without repeating the edge, as often as it takes: a padding longer than the image is fine.
    """
    for dim in (-2, -1):
        n = x.shape[dim]
        wanted = rule.padded(n)
        if wanted == n:
            continue
        position = torch.arange(wanted, device=x.device)
        if rule.mode == "reflect" and n > 1:
            position = position % (2 * n - 2)
            position = torch.where(position < n, position, 2 * n - 2 - position)
        x = x.index_select(dim, position.clamp(max=n - 1))
    return x


def _check_input(lq: Tensor) -> None:
    shape = list(lq.shape)
    if lq.ndim not in (3, 4) or shape[-3] != 3:
        raise ValueError(f"expected an image [3, h, w] or a batch [B, 3, h, w], got shape {shape}")
    if 0 in shape:
        raise ValueError(f"there is nothing to upscale in a tensor of shape {shape}")
    if not lq.is_floating_point():
        raise ValueError(f"expected floats in [0, 1], got {lq.dtype}; 8-bit images must be divided by 255")


def _scale(network: nn.Module) -> int:
    scale = getattr(network, "scale", None)
    if not isinstance(scale, int) or scale < 1:
        raise ValueError(
            f"{type(network).__name__} has no whole number `scale` (it is {scale!r}); pass the network itself, not a "
            "wrapper such as DistributedDataParallel"
        )
    return scale


def aligned_tile(tile: int, overlap: int, rule: SizeRule) -> int:
    """``tile`` lowered to the network's alignment.

    Raises:
        InputError: tiles of that size cannot work with this overlap and this network.
    """
    if overlap < 0:
        raise InputError(f"the overlap of tiles must be 0 or more, got {overlap}")
    alignment = math.lcm(rule.multiple, rule.tile_multiple)
    aligned = tile // alignment * alignment
    # The step from tile to tile is a multiple of the alignment too; the shortest tile is the last one.
    least = max(overlap + alignment, rule.minimum + alignment - 1)
    least = -(-least // alignment) * alignment
    if aligned < least:
        raise InputError(
            f"tiles of {tile} pixels are too small for this network with an overlap of {overlap}: give at least "
            f"{least}, or a smaller overlap"
        )
    return aligned
