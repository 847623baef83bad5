"""What the machine can do at best, measured: bytes copied and multiply-adds of matrix products in a second."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import torch

from utils.devices import synchronise

_TURNS = 5


@dataclass(frozen=True)
class Cost:
    """What a piece of work needs at least, whoever does it.

    Attributes:
        flops: of its matrix products, a multiplication and an addition counted as two.
        moved: bytes, each input read and each output written once.
        dtype: of the matrix products.
    """

    flops: float
    moved: float
    dtype: torch.dtype = torch.float32


class Limits:
    """The limits of this machine with the threads that torch has now; each is measured when first asked for.

    Args:
        quick: smaller buffers and matrices.
    """

    def __init__(self, quick: bool = False) -> None:
        self.quick = quick
        self._rates: dict[tuple[str, torch.dtype], float] = {}
        self._bandwidths: dict[str, float] = {}

    def bandwidth(self, device: str) -> float:
        """Bytes read and written in a second by copying a large buffer."""
        if device not in self._bandwidths:
            # 64 or 256 MiB: beyond any cache of a CPU. 1 GiB: a GPU moves less in too short a time.
            count = 1 << (30 if device != "cpu" else 26 if self.quick else 28)
            source = torch.rand(count // 4, device=device)
            target = torch.empty_like(source)
            self._bandwidths[device] = 2 * count / _fastest(functools.partial(target.copy_, source), device)
        return self._bandwidths[device]

    def rate(self, device: str, dtype: torch.dtype) -> float:
        """FLOPs in a second of a large square matrix product."""
        if (device, dtype) not in self._rates:
            side = 8192 if device != "cpu" else 1024 if self.quick else 2048
            # Random: on constant data a GPU draws less power, and clocks higher than any real work lets it.
            x = torch.rand(side, side, device=device).to(dtype)
            y = torch.empty_like(x)
            self._rates[device, dtype] = 2 * side**3 / _fastest(functools.partial(torch.mm, x, x, out=y), device)
        return self._rates[device, dtype]

    def share(self, cost: Cost, seconds: float, device: str) -> tuple[float, str]:
        """The least time that the limits allow as a part of ``seconds``, and which limit it is."""
        by = {
            "bandwidth": cost.moved / self.bandwidth(device),
            "arithmetic": cost.flops / self.rate(device, cost.dtype),
        }
        name = max(by, key=lambda limit: by[limit])
        return by[name] / seconds, name

    def described(self) -> dict[str, str]:
        """The limits that were measured, for the table's head."""
        copies = {f"copying, {device}": f"{rate / 1e9:.3g} GB/s" for device, rate in self._bandwidths.items()}
        products = {
            f"matrix products, {device}, {str(dtype).removeprefix('torch.')}": f"{rate / 1e9:.4g} GFLOP/s"
            for (device, dtype), rate in self._rates.items()
        }
        return {**copies, **products}


def _fastest(work: functools.partial[torch.Tensor], device: str) -> float:
    """Seconds of the fastest of some calls."""
    found = []
    for _ in range(_TURNS):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - started)
    return min(found)


def _wait(device: str) -> None:
    synchronise(torch.device(device))
