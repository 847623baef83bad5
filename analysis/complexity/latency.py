"""Latency and peak memory of a network, by the protocol of ESC's authors (Lee et al., ICCV 2025).

A pass is :func:`models.upscale` of one image that lies on the device: padding and cropping are in it. Every pass is
waited for; accelerators are timed by their own events. What the first pass does in addition, such as compiling kernels,
is kept apart. Memory is to be measured in a process that has done nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models import upscale
from ops.registration import NAMESPACE
from utils.device_memory import peak_device_memory, release_kept_memory, reset_peak_device_memory
from utils.devices import abilities, module_of, set_tf32, synchronise
from utils.env import peak_growth, resident_memory

Work = Callable[[], object]


@dataclass(frozen=True)
class Protocol:
    """How passes are repeated.

    Attributes:
        warm_ups: passes before those that are timed.
        passes: that are timed.
        seconds: passes end after this much time, if there were ``least``; None: only after all.
        least: passes whatever the time.
    """

    warm_ups: int
    passes: int
    seconds: float | None = None
    least: int = 3


ESC = Protocol(100, 100)
"""Of ESC's authors, for accelerators."""
ON_CPU = Protocol(3, 10, seconds=10.0)
"""Passes take seconds there."""


def protocol_of(device: torch.device) -> Protocol:
    """The protocol for a device."""
    return ON_CPU if abilities(device).in_main_memory else ESC


@dataclass(frozen=True)
class Timing:
    """Milliseconds of passes.

    Attributes:
        passes: each of those that are timed.
        first: of the first of all, which may compile kernels and fill caches.
    """

    passes: tuple[float, ...]
    first: float

    @property
    def median(self) -> float:
        """The figure."""
        return float(np.median(self.passes))

    @property
    def mean(self) -> float:
        """Of all passes; ESC's script prints it beside the median."""
        return float(np.mean(self.passes))

    def percentile(self, share: float) -> float:
        """The percentile of the passes, linear between two of them."""
        return float(np.percentile(self.passes, share))


@dataclass(frozen=True)
class Measured:
    """What was measured of a network.

    Attributes:
        timing: with float32 as it is.
        tf32: with factors of products rounded to 10 bits; None where the device has no such arithmetic.
        memory: bytes at the peak of a pass, of weights, input and output too; None where that is unknown.
        device: what the device is called.
        threads: of the CPU; None on accelerators.
        operators: this project's operators, and fused attention of PyTorch, that ran; PyTorch's other operators are not
            named.
    """

    timing: Timing
    tf32: Timing | None
    memory: int | None
    device: str
    threads: int | None
    operators: tuple[str, ...] = ()


def measure(
    build: Callable[[], nn.Module], size: tuple[int, int], device: torch.device, protocol: Protocol | None = None
) -> Measured:
    """Build a network on a device, and measure its passes over one image.

    On the CPU the memory is by how much the process grows from before ``build`` to the peak of a pass: call this once
    in a process.

    Args:
        build: makes the network, in the form in which it runs.
        size: (h, w) of the image.
        device: where it runs.
        protocol: None for that of the device.
    """
    ability = abilities(device)
    protocol = protocol or protocol_of(device)
    before = resident_memory()
    network = build().to(device)
    channels = getattr(network, "channels", 3)
    x = torch.rand(1, channels, *size, device=device)  # uniform in [0, 1)
    torch.backends.cudnn.benchmark = True

    def work() -> Tensor:
        with torch.inference_mode():
            return upscale(network, x)

    set_tf32(on=False)
    timing, memory = _passes(work, device, protocol)
    if ability.in_main_memory:
        memory = None if before is None else peak_growth(work, before)
    with _Operators() as seen:  # not before: what PyTorch loads for it would count
        work()
    tf32 = None
    if not ability.in_main_memory:
        set_tf32(on=True)
        tf32, _ = _passes(work, device, protocol)
    threads = torch.get_num_threads() if ability.in_main_memory else None
    return Measured(timing, tf32, memory, ability.name, threads, tuple(sorted(seen.names)))


class _Operators(TorchDispatchMode):
    """Notes which operators run that have several implementations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator."""
        name = str(getattr(function, "_overloadpacket", function))
        if name.startswith(f"{NAMESPACE}.") or "attention" in name:
            self.names.add(name)
        return function(*args, **(kwargs or {}))


def _passes(work: Work, device: torch.device, protocol: Protocol) -> tuple[Timing, int | None]:
    """The passes, and the peak of the device's memory meanwhile, where it counts."""
    timed = _timer(device)
    first = timed(work)
    for _ in range(protocol.warm_ups - 1):
        work()
        synchronise(device)
    release_kept_memory(device)
    reset_peak_device_memory(device)
    synchronise(device)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < protocol.passes:
        times.append(timed(work))
        late = protocol.seconds is not None and time.perf_counter() - started >= protocol.seconds
        if late and len(times) >= protocol.least:
            break
    return Timing(tuple(times), first), peak_device_memory(device) or None


def _timer(device: torch.device) -> Callable[[Work], float]:
    """What calls a work and returns its milliseconds: by events of the device where it has some."""
    event = getattr(module_of(device.type), "Event", None)
    if event is None or not abilities(device).asynchronous:

        def by_clock(work: Work) -> float:
            synchronise(device)
            started = time.perf_counter()
            work()
            synchronise(device)
            return 1000 * (time.perf_counter() - started)

        return by_clock
    begin, end = event(enable_timing=True), event(enable_timing=True)

    def by_events(work: Work) -> float:
        begin.record()
        work()
        end.record()
        synchronise(device)
        return float(begin.elapsed_time(end))

    return by_events
