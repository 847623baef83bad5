"""Upscaling with a network: any image size, any batch, whole or in tiles, with or without self-ensemble.

What size of input a network wants is said by its ``size_rule``; padding to it, and cropping the output, happen here and
nowhere else.

Shapes: B images, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from archs.contract import contract_of
from archs.layers.reflect import reflect
from archs.layers.size import SizeRule
from models.inference.tiling import OverlappingTiles, Tiling, aligned_tile
from utils.errors import InputError
from utils.scale import scaled_length

Watch = Callable[[float], None]


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
    offered = contract_of(network)
    _check_input(lq, offered.channels)
    scale, rule = offered.scale, offered.size_rule
    if multiple > 1:
        rule = dataclasses.replace(rule, multiple=math.lcm(rule.multiple, multiple))
    if not isinstance(scale, int) and (tile is not None or tiling is not None or rule.multiple > 1):
        raise InputError(
            f"images are upscaled by {scale:g} as a whole: tiles, and images extended to multiples of a window, would "
            "end between pixels; choose a whole scale, or neither"
        )
    if tile is not None and tiling is None:
        tiling = OverlappingTiles(aligned_tile(tile, overlap, rule), overlap)
    batch = lq if lq.ndim == 4 else lq[None]
    recording = torch.is_grad_enabled() and lq.requires_grad
    with torch.set_grad_enabled(recording), evaluation_mode(network):
        if self_ensemble:
            result = _self_ensemble(network, batch, scale, rule, tiling, watch)
        else:
            result = _upscale(network, batch, scale, rule, tiling, watch)
    return result if lq.ndim == 4 else result[0]


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
    network: nn.Module, lq: Tensor, scale: float, rule: SizeRule, tiling: Tiling | None, watch: Watch | None
) -> Tensor:
    """Mean over the dihedral group of the square: transform, upscale, transform back."""

    def eighth(share: float) -> None:
        if watch is not None:
            watch(share / 8)

    total = None
    for flip in (False, True):
        for turns in range(4):
            view = torch.rot90(lq.flip(-1) if flip else lq, turns, (-2, -1))
            result = torch.rot90(_upscale(network, view, scale, rule, tiling, eighth), -turns, (-2, -1))
            result = result.flip(-1) if flip else result
            total = result if total is None else total + result
    assert total is not None
    return total / 8


def _upscale(
    network: nn.Module, lq: Tensor, scale: float, rule: SizeRule, tiling: Tiling | None, watch: Watch | None
) -> Tensor:
    """[B, 3, h, w] -> [B, 3, s*h, s*w], in tiles if there is a tiling."""
    h, w = lq.shape[-2:]
    padded = pad_to_rule(lq, rule)
    H, W = padded.shape[-2:]
    if tiling is None:
        result = _run(network, padded, scale).to(lq.device)
        if watch is not None:
            watch(1.0)
        return result[..., : scaled_length(h, scale), : scaled_length(w, scale)]
    assert isinstance(scale, int)
    alignment = math.lcm(rule.multiple, rule.tile_multiple)
    rows, columns = (tiling.spans(length, alignment) for length in (H, W))
    mirrored = _mirrored if tiling.repeats_edge else reflect
    padded = mirrored(mirrored(padded, -1, tiling.extended(W)), -2, tiling.extended(H))
    bands = []
    for row in rows:
        parts = []
        for column in columns:
            patch = padded[..., row.start : row.stop, column.start : column.stop]
            part = _run(network, pad_to_rule(patch, rule), scale)[
                ...,
                scale * (row.keep_start - row.start) : scale * (row.keep_stop - row.start),
                scale * (column.keep_start - column.start) : scale * (column.keep_stop - column.start),
            ]
            # A copy, so that the tile's full output does not stay in memory behind the view.
            parts.append(part.to(lq.device, copy=True))
            if watch is not None:
                watch(1 / (len(rows) * len(columns)))
        bands.append(torch.cat(parts, dim=-1)[..., : scale * w])
    return torch.cat(bands, dim=-2)[..., : scale * h, :]


def _mirrored(x: Tensor, dim: int, length: int) -> Tensor:
    """``x`` extended to ``length`` by its mirror image, edge pixel included."""
    n = x.shape[dim]
    if length == n:
        return x
    position = torch.arange(length, device=x.device)
    return x.index_select(dim, torch.where(position < n, position, 2 * n - 1 - position).clamp(min=0))


def _run(network: nn.Module, x: Tensor, scale: float) -> Tensor:
    """The network's output for one tensor, on the network's device, in the tensor's type; its shape checked."""
    like = next(network.parameters(), x)
    output: Tensor = network(x.to(like.device, like.dtype)).to(x.dtype)
    B, C, h, w = x.shape
    expected = [B, C, scaled_length(h, scale), scaled_length(w, scale)]
    if list(output.shape) != expected:
        raise ValueError(
            f"{type(network).__name__} made {list(output.shape)} of an input {list(x.shape)}; with scale {scale}, "
            f"expected {expected}"
        )
    return output


def pad_to_rule(x: Tensor, rule: SizeRule) -> Tensor:
    """Extend [..., h, w] to the right and below to a size that the rule allows.

    "reflect" mirrors without repeating the edge, as often as it takes: a padding longer than the image is fine.
    """
    for dim in (-2, -1):
        n = x.shape[dim]
        wanted = rule.padded(n)
        if rule.mode == "reflect":
            x = reflect(x, dim, wanted)
        elif wanted != n:
            x = x.index_select(dim, torch.arange(wanted, device=x.device).clamp(max=n - 1))
    return x


def _check_input(lq: Tensor, channels: int) -> None:
    shape = list(lq.shape)
    if lq.ndim not in (3, 4) or shape[-3] != channels:
        raise ValueError(f"expected an image [{channels}, h, w] or a batch [B, {channels}, h, w], got shape {shape}")
    if 0 in shape:
        raise ValueError(f"there is nothing to upscale in a tensor of shape {shape}")
    if not lq.is_floating_point():
        raise ValueError(f"expected floats in [0, 1], got {lq.dtype}; 8-bit images must be divided by 255")
