"""Upscaling of pictures as people have them: any depth, grey, transparent, larger than the memory.

Shapes: C channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from archs.contract import contract_of
from data.images.photo import Levels, Photo
from models.inference.memory import Demand, find_tile, free_memory, halved, measure, probe_sides
from models.inference.tiling import aligned_tile
from models.inference.transparency import spread_colour
from models.inference.upscale import Assembled, Put, Watch, overlapping_tiles, upscale_in_parts
from models.precision.faults import first_fault
from models.runtimes.network import OnnxNetwork
from utils.device_memory import release_kept_memory
from utils.env import available_memory
from utils.errors import InputError
from utils.log import get_logger
from utils.memory import memory_is_full
from utils.scale import scaled_length

TileChoice = int | Literal["auto"] | None
_STRIP = 256  # rows that are rounded at a time


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
        self.device = next(network.parameters(), torch.zeros(())).device
        self.limit: int | None = None  # larger tiles did not fit
        self._demand: Demand | None = None

    def __call__(self, lq: Tensor, watch: Watch | None = None) -> Tensor:
        """[C, h, w] or [B, C, h, w] in [0, 1] -> the same, s times as high and wide, in the type of ``lq``.

        Raises:
            InputError: the memory does not suffice, or numbers overflow in half precision.
        """
        whole = Assembled(lq, contract_of(self.network).scale)
        self.in_parts(whole.put, lq, watch)
        return whole.images if lq.ndim == 4 else whole.images[0]

    def in_parts(self, put: Put, lq: Tensor, watch: Watch | None = None, reserved: int = 0) -> None:
        """As calling it; the result goes to ``put`` as :func:`models.inference.upscale.upscale_in_parts` says.

        When the memory runs out, it begins again with smaller tiles: parts are put more than once.

        Args:
            put: takes the parts.
            lq: see above.
            watch: see :func:`models.inference.upscale.upscale`.
            reserved: bytes of the host's memory that ``put`` is going to take for the result.
        """
        h, w = lq.shape[-2:]
        tile = self.tile_for(h, w, reserved)
        while not self._attempt(put, lq, tile, watch):
            tile = self._smaller(tile, h, w)

    def _check_numbers(self, part: Tensor, again: Callable[[], object]) -> None:
        """Raise InputError where a result holds NaN or infinity; ``again`` runs the network as it was run."""
        if not all(bool(extreme.isfinite()) for extreme in part.aminmax()):
            where = first_fault(self.network, again)
            cause = "; are its weights sound?" if where is None else f", {where}"
            raise InputError(f"the network gave values that are not finite (NaN or infinity){cause}")

    def tile_for(self, h: int, w: int, reserved: int = 0) -> int | None:
        """Side of the tiles for an image of h x w pixels; None: none. See :meth:`in_parts` for ``reserved``."""
        tile = self._fitting_tile(h, w, reserved) if self.tile == "auto" else self.tile
        if self.limit is not None and max(h, w) > self.limit:
            return self.limit if tile is None else min(tile, self.limit)
        return tile

    def _fitting_tile(self, h: int, w: int, reserved: int) -> int | None:
        budget = free_memory(self.device, reserved)
        small = max(h, w) <= probe_sides(self.network)[1]
        if budget is None or small or not isinstance(contract_of(self.network).scale, int):
            return None
        if isinstance(self.network, OnnxNetwork) and not self.network.tile_matters:
            return None
        if self._demand is None:
            self._demand = measure(self.network)
        return find_tile(self.network, h, w, self.overlap, self._demand, budget)

    def _attempt(self, put: Put, lq: Tensor, tile: int | None, watch: Watch | None) -> bool:
        """Whether the memory sufficed."""
        shares = 0.0

        def count(share: float) -> None:
            nonlocal shares
            shares += share
            if watch is not None:
                watch(share)

        def put_numbers(top: int, left: int, part: Tensor) -> None:
            self._check_numbers(part, again)
            put(top, left, part)

        def again() -> None:
            upscale_in_parts(lambda top, left, part: None, self.network, lq, tiling, self.self_ensemble)

        tiling = None if tile is None else overlapping_tiles(self.network, tile, self.overlap)
        try:
            upscale_in_parts(
                put_numbers, self.network, lq, tiling, self.self_ensemble, watch=count, overlap=self.overlap
            )
            return True
        except (RuntimeError, MemoryError) as error:
            if not memory_is_full(error):
                raise
        # Outside of the handler: the exception holds on to the tensors of the pass that failed.
        release_kept_memory(self.device)
        if watch is not None:
            watch(-shares)
        return False

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
    scale = contract_of(upscaler.network).scale
    height, width = (scaled_length(length, scale) for length in photo.pixels.shape[:2])
    planes = [photo.pixels] if photo.alpha is None else [photo.pixels, photo.alpha]
    check_memory(height, width, photo)
    results: list[Levels] = [np.empty((height, width, plane.shape[2]), plane.dtype) for plane in planes]
    if photo.alpha is not None and photo.alpha.min() < photo.alpha.max():
        planes[0] = spread_colour(photo.pixels, photo.alpha)
    elif photo.alpha is not None:
        results[1].fill(planes.pop().flat[0])

    def share(done: float) -> None:
        if watch is not None:
            watch(done / len(planes))

    for i, (plane, result) in enumerate(zip(planes, results, strict=False)):
        _upscale_levels(plane, result, upscaler, share, reserved=sum(later.nbytes for later in results[i:]))
    return dataclasses.replace(photo, pixels=results[0], alpha=None if photo.alpha is None else results[1])


def check_memory(height: int, width: int, photo: Photo) -> None:
    """Whether the memory holds a picture of this size, before the network runs for hours.

    Args:
        height: of the picture.
        width: of it.
        photo: with as many channels, and as deep.

    Raises:
        InputError: the memory does not suffice.
    """
    planes = [photo.pixels] if photo.alpha is None else [photo.pixels, photo.alpha]
    needed = sum(height * width * plane.shape[2] * plane.itemsize for plane in planes)
    free = available_memory()
    if free is None or needed <= free:
        with suppress(MemoryError):
            np.empty(needed, np.uint8)  # for systems that promise no more than they have
            return
    known = "" if free is None else f", and {free / 2**30:,.1f} GiB are free"
    raise InputError(
        f"the result has {width:,} x {height:,} pixels, which take {needed / 2**30:,.1f} GiB of memory{known}; close "
        "other programs, or cut it and upscale the pieces"
    )


def _upscale_levels(levels: Levels, result: Levels, upscaler: Upscaler, watch: Watch, reserved: int) -> None:
    """[h, w, C] into [s*h, s*w, C] of the same type, C 1 or 3, whatever the network's channels."""
    top = np.iinfo(levels.dtype).max
    channels = levels.shape[2]
    wanted = contract_of(upscaler.network).channels
    lq = torch.from_numpy(np.divide(levels, np.float32(top), dtype=np.float32)).permute(2, 0, 1)  # [C, h, w]
    if wanted != channels:
        lq = lq[:, None] if wanted == 1 else lq.expand(wanted, -1, -1)  # one image per channel, or equal channels

    def put(row: int, column: int, part: Tensor) -> None:
        image = part[:, 0] if wanted == 1 else part[0]  # [C, H, W]
        for strip in image.split(_STRIP, dim=1):
            strip = strip.mean(dim=0, keepdim=True) if channels < wanted else strip
            height, width = strip.shape[1:]
            result[row : row + height, column : column + width] = _rounded(strip, top)
            row += height

    upscaler.in_parts(put, lq, watch, reserved)


def _rounded(image: Tensor, top: int) -> NDArray[np.float32]:
    """[C, H, W] in [0, 1] -> [H, W, C] in 0 .. top, clipped and rounded half to even."""
    return image.clamp(0, 1).mul_(top).round_().permute(1, 2, 0).cpu().numpy()
