"""Upscaling of pictures as people have them: any depth, grey, transparent, larger than the memory.

Shapes: C channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from archs.contract import contract_of
from data.images.photo import Levels, Photo
from models.inference.memory import Demand, find_tile, free_memory, halved, measure, memory_is_full, probe_sides
from models.inference.tiling import aligned_tile
from models.inference.transparency import spread_colour
from models.inference.upscale import Watch, upscale
from utils.errors import InputError
from utils.log import get_logger

TileChoice = int | Literal["auto"] | None


class Upscaler:
    """A network with the way in which it is applied to images; remembers what size of tiles the memory allows.

    Args:
        network: on its device and in its type.
        tile: side of the tiles in low-resolution pixels; "auto": as large as the free memory allows, perhaps the whole
            image; None: the whole image. Tiles that turn out too large for the memory are halved.
        overlap: pixels that neighbouring tiles have in common.
        self_ensemble: mean over the eight flips and rotations.

    Raises:
        InputError: tiles of that side cannot work with this overlap and this network.
    """

    def __init__(
        self, network: nn.Module, tile: TileChoice = "auto", overlap: int = 32, self_ensemble: bool = False
    ) -> None:
        if isinstance(tile, int):
            aligned_tile(tile, overlap, contract_of(network).size_rule)
        self.network, self.tile, self.overlap, self.self_ensemble = network, tile, overlap, self_ensemble
        self.device = next(network.parameters()).device
        self.limit: int | None = None  # larger tiles did not fit
        self._demand: Demand | None = None

    def __call__(self, lq: Tensor, watch: Watch | None = None) -> Tensor:
        """[C, h, w] or [B, C, h, w] in [0, 1] -> the same, s times as high and wide, in the type of ``lq``.

        Raises:
            InputError: the memory does not suffice, or numbers overflow in half precision.
        """
        h, w = lq.shape[-2:]
        tile = self.tile_for(h, w)
        while True:
            result = self._attempt(lq, tile, watch)
            if result is not None:
                break
            tile = self._smaller(tile, h, w)
        if not bool(result.isfinite().all()):
            raise InputError(
                "the network gave values that are no numbers; leave --half out"
                if next(self.network.parameters()).dtype == torch.float16
                else "the network gave values that are no numbers; are its weights sound?"
            )
        return result

    def tile_for(self, h: int, w: int) -> int | None:
        """Side of the tiles for an image of h x w pixels; None: none."""
        tile = self._fitting_tile(h, w) if self.tile == "auto" else self.tile
        if self.limit is not None and max(h, w) > self.limit:
            return self.limit if tile is None else min(tile, self.limit)
        return tile

    def _fitting_tile(self, h: int, w: int) -> int | None:
        budget = free_memory(self.device)
        small = max(h, w) <= probe_sides(self.network)[1]
        if budget is None or small or not isinstance(contract_of(self.network).scale, int):
            return None
        if self._demand is None:
            self._demand = measure(self.network)
        return find_tile(self.network, h, w, self.overlap, self._demand, budget)

    def _attempt(self, lq: Tensor, tile: int | None, watch: Watch | None) -> Tensor | None:
        """The result, or None when the memory ran out."""
        shares = 0.0

        def count(share: float) -> None:
            nonlocal shares
            shares += share
            if watch is not None:
                watch(share)

        try:
            return upscale(
                self.network, lq, tile=tile, overlap=self.overlap, self_ensemble=self.self_ensemble, watch=count
            )
        except (RuntimeError, MemoryError) as error:
            if not memory_is_full(error):
                raise
        # Outside of the handler: the exception holds on to the tensors of the pass that failed.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if watch is not None:
            watch(-shares)
        return None

    def _smaller(self, tile: int | None, h: int, w: int) -> int:
        if not isinstance(contract_of(self.network).scale, int):
            raise InputError("the memory does not suffice, and images upscaled by this factor cannot be cut into tiles")
        self.limit = halved(self.network, tile, h, w, self.overlap)
        get_logger().warning("the memory does not suffice; going on with tiles of %d pixels", self.limit)
        return self.limit


def upscale_photo(photo: Photo, upscaler: Upscaler, watch: Watch | None = None) -> Photo:
    """A picture, upscaled: the same depth, grey if it was grey, with profile and EXIF block.

    Transparency is upscaled by the network as a grey picture; where it is the same everywhere, it stays so. Colour is
    spread under transparent pixels first, so that laid over any background the edge has the colour of the picture.

    Raises:
        InputError: the memory does not suffice.
    """
    parts = 1 if photo.alpha is None or photo.alpha.min() == photo.alpha.max() else 2

    def share(done: float) -> None:
        if watch is not None:
            watch(done / parts)

    pixels = photo.pixels if photo.alpha is None else spread_colour(photo.pixels, photo.alpha)
    pixels = _upscaled(pixels, upscaler, share)
    if photo.alpha is None:
        return dataclasses.replace(photo, pixels=pixels)
    if parts == 2:
        alpha = _upscaled(photo.alpha, upscaler, share)
    else:
        alpha = np.full((*pixels.shape[:2], 1), photo.alpha.flat[0], photo.alpha.dtype)
    return dataclasses.replace(photo, pixels=pixels, alpha=alpha)


def _upscaled(levels: Levels, upscaler: Upscaler, watch: Watch) -> Any:
    """[h, w, C] -> [s*h, s*w, C] of the same type, C 1 or 3, whatever the network's channels."""
    top = np.iinfo(levels.dtype).max
    channels = levels.shape[2]
    wanted = contract_of(upscaler.network).channels
    lq = torch.from_numpy(levels.astype(np.float32) / np.float32(top)).permute(2, 0, 1)  # [C, h, w]
    if channels == wanted:
        result = upscaler(lq, watch)
    elif wanted == 1:
        result = upscaler(lq[:, None], watch)[:, 0]  # one image per channel
    else:
        result = upscaler(lq.expand(wanted, -1, -1), watch).mean(dim=0, keepdim=True)
    return _levels(result, top, levels.dtype)


def _levels(image: Tensor, top: int, kind: Any) -> NDArray[Any]:
    """[C, H, W] in [0, 1] -> [H, W, C] in 0 .. top, clipped and rounded half to even."""
    rounded = image.clamp(0, 1).mul(top).round().permute(1, 2, 0)
    return rounded.contiguous().cpu().numpy().astype(kind)
