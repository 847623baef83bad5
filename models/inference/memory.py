"""How large an image a network can take in the memory that is free, and what to do when that was too optimistic.

Shapes: h w low-resolution pixels.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from archs.contract import contract_of
from models.inference.tiling import aligned_tile
from models.inference.upscale import evaluation_mode
from models.runtimes.network import OnnxNetwork
from ops.kept_memory import kept_bytes
from utils.device_memory import (
    allocated_memory,
    device_memory,
    peak_device_memory,
    reset_peak_device_memory,
)
from utils.devices import abilities, synchronise
from utils.env import available_memory, peak_growth, resident_memory
from utils.errors import InputError

Result = TypeVar("Result")

_PROBE = 48  # side of the first probe, at least; the second has twice the side
# Of what allocates its memory by itself: bytes of a pass that stand out of what the process does beside it, the side of
# the last image that is tried, and bytes per pixel where the system does not say (HAT takes some 14,000).
_CLEARLY, _LARGEST_PROBE, _CAREFUL = 64 * 2**20, 768, 16_000.0
# Where no allocator counts, as on the CPU, the tensors are measured: what kernels take for themselves, and other
# programs, come on top.
_SHARE_OF_TENSORS, _SHARE_OF_ALLOCATED = 0.4, 0.8


class Demand(NamedTuple):
    """Bytes that a network needs for n pixels: ``linear * n + square * n**2``."""

    linear: float
    square: float

    def pixels(self, budget: float) -> int:
        """The most pixels that ``budget`` bytes suffice for."""
        linear = max(self.linear, 1.0)
        # The root in the form that does not subtract equal numbers.
        return int(2 * budget / (linear + math.sqrt(linear * linear + 4 * self.square * budget)))


def free_memory(device: torch.device, reserved: int = 0) -> int | None:
    """Bytes that may be spent on the activations of a network; None where that is not known.

    Args:
        device: where it runs.
        reserved: bytes of the host's memory that something else is going to take.
    """
    can = abilities(device)
    share = _SHARE_OF_ALLOCATED if can.peak else _SHARE_OF_TENSORS
    if can.in_main_memory:
        available = available_memory()
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun; they share the memory
        return None if available is None else int(share * max(0, available // ranks + kept_bytes() - reserved))
    memory = device_memory(device)
    return None if memory is None else int(share * memory.free)


def probe_sides(network: nn.Module) -> tuple[int, int]:
    """Sides of the two images that :func:`measure` runs."""
    rule = contract_of(network).size_rule
    unit = math.lcm(rule.multiple, rule.tile_multiple)
    first = -(-max(_PROBE, rule.minimum) // unit) * unit
    return first, 2 * first


def measure(network: nn.Module) -> Demand:
    """What the network needs, from its peak memory on two small images.

    Args:
        network: on the device and of the type in which it is to run.
    """
    if isinstance(network, OnnxNetwork):
        return _measured_from_outside(network)
    like = next(network.parameters(), torch.zeros(()))
    sides = probe_sides(network)
    channels = contract_of(network).channels
    small, large = (peak_of_forward(network, like.new_zeros(1, channels, side, side)) for side in sides)
    n, m = (side * side for side in sides)
    square = max(0.0, (large / m - small / n) / (m - n))
    return Demand(large / m - square * m, square)


def _measured_from_outside(network: OnnxNetwork) -> Demand:
    """:func:`measure` of what allocates memory by itself: by how much the process grows, on images that show it.

    All growth counts from the same size: OpenVINO keeps what a pass took, for the next ones.
    """
    largest = min(network.size_rule.largest or (_LARGEST_PROBE, _LARGEST_PROBE))
    side = probe_sides(network)[0]

    def run() -> None:
        with torch.no_grad():
            network(torch.zeros(1, network.channels, side, side))

    run()  # what is made ready once does not count
    before = resident_memory()
    while before is not None:
        grown = peak_growth(run, before)
        if grown is None:
            break
        if grown >= _CLEARLY or 2 * side > min(largest, _LARGEST_PROBE):
            return Demand(grown / side**2 + 8 * network.channels * network.scale**2, 0.0)
        side *= 2
    return Demand(_CAREFUL, 0.0)


def find_tile(network: nn.Module, h: int, w: int, overlap: int, demand: Demand, budget: int) -> int | None:
    """Side of the largest tiles that fit into ``budget`` bytes; None if all of h x w pixels does.

    Where not even the smallest possible tiles fit, their side: the estimate is careful.
    """
    largest = contract_of(network).size_rule.largest
    if largest is not None:  # larger ones are cut anyway
        h, w = min(h, largest[0]), min(w, largest[1])
    pixels = demand.pixels(budget)
    if h * w <= pixels:
        return None
    return max(math.isqrt(pixels), smallest_tile(network, overlap))


def smallest_tile(network: nn.Module, overlap: int) -> int:
    """The smallest side of tiles that work with this network and overlap."""
    rule = contract_of(network).size_rule
    unit = math.lcm(rule.multiple, rule.tile_multiple)
    side = -(-max(overlap + unit, rule.minimum + unit - 1) // unit) * unit
    return aligned_tile(side, overlap, rule)


def halved(network: nn.Module, tile: int | None, h: int, w: int, overlap: int) -> int:
    """Side of the next smaller tiles, after ``tile`` (None: all of h x w) was too large for the memory.

    Raises:
        InputError: there are none.
    """
    largest = contract_of(network).size_rule.largest
    whole = max(h, w) if largest is None else min(max(h, w), *largest)
    side = whole if tile is None else tile
    least = smallest_tile(network, overlap)
    if side <= least:
        raise InputError(
            f"the memory does not suffice, not even for tiles of {side} x {side} pixels; close other programs, use "
            "--precision fp16 on a GPU, or a smaller network"
        )
    return max(side // 2, least)


def peak_of_forward(network: nn.Module, x: Tensor) -> int:
    """Most bytes that a pass takes beyond what is there before it."""
    with torch.no_grad(), evaluation_mode(network):
        network(x)  # tables that are computed once do not count
        return peak_of(x.device, lambda: network(x))[1]


def peak_of(device: torch.device, work: Callable[[], Result]) -> tuple[Result, int]:
    """The result of ``work``, and the most bytes that it takes on a device beyond what is there before it."""
    if abilities(device).peak:
        synchronise(device)
        reset_peak_device_memory(device)
        before = allocated_memory(device)
        result = work()
        return result, peak_device_memory(device) - before
    live = LiveTensors()
    with live:
        result = work()
    return result, live.peak


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, as they come and go.

    Attributes:
        now: bytes of those that have been made in this mode and are alive.
        peak: most bytes that were alive at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in tree_leaves(result):
            if isinstance(item, Tensor):
                self._count(item.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known:
            return
        self.known[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self.known.pop(key, 0)
