"""The largest batch that the memory suffices for, found by real iterations: ``train.py --check --largest_batch``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from config.schema import TrainOptions
from data.loader import Batch
from models.training.finite import FiniteGuard
from models.training.objectives import build_objective
from models.training.state import TrainState
from utils.device_memory import release_kept_memory
from utils.devices import abilities
from utils.env import available_memory, peak_memory, reset_peak_memory
from utils.errors import InputError
from utils.log import PASSING, get_logger
from utils.memory import memory_is_full

MOST = 1024  # nobody asks for more, and each trial takes its time
_PRECISION = 16  # the search ends when the last bound is within a sixteenth: each trial costs a whole iteration
_SHARE_OF_HOST = 0.9  # the rest is for the processes that load images, and for other programs

Step = Callable[[int], None]


def find_largest_batch(state: TrainState, batch: Batch, options: TrainOptions) -> tuple[int, int | None]:
    """The most samples that an iteration with these options can take, and the least that it could not.

    The second is None where :data:`MOST` samples fit. Losses and weights after this mean nothing.

    Args:
        state: after at least one iteration, so that the optimiser has its moments; mutated.
        batch: whose samples are repeated.
        options: of the iteration; a compiled network is measured as if it were not.

    Raises:
        InputError: not even one sample fits, or the system does not tell how much memory there is.
    """
    guard = FiniteGuard.create(state, skip=True)
    objective = build_objective(options, state, guard=guard)

    def step(count: int) -> None:
        state.step = objective.full_step - 1  # the iteration that needs most
        objective.step(state, repeated(batch, count))
        guard.check()  # waits for the device

    on_host = abilities(state.device).in_main_memory
    trial = HostTrial.create(step) if on_host else DeviceTrial(state.device, step)

    def fits(count: int) -> bool:
        enough = trial.fits(count)
        get_logger().info("batch %d %s", count, "fits" if enough else "does not fit", extra={PASSING: True})
        return enough

    largest, refused = search(fits, len(batch), MOST)
    if largest == 0:
        raise InputError(
            "not even one sample fits into the memory; choose a smaller gt_size, train.checkpoint_activations, or a "
            "smaller network"
        )
    return largest, refused


def search(fits: Callable[[int], bool], start: int, most: int) -> tuple[int, int | None]:
    """By doubling, then bisection: the largest number that fits (0: none), and a number that does not (None: all do).

    The two are neighbours, or within a sixteenth of each other.
    """
    low, high = 0, None
    count = min(max(start, 1), most)
    while high is None:
        if fits(count):
            low = count
            if count == most:
                return low, None
            count = min(2 * count, most)
        else:
            high = count
    while high - low > max(1, low // _PRECISION):
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low, high


def repeated(batch: Batch, count: int) -> Batch:
    """A batch of ``count`` samples, made by taking those of another again and again."""
    index = torch.arange(count, device=batch.lq.device) % len(batch)
    channels_last = batch.lq.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def repeat(tensor: Tensor) -> Tensor:
        repeated = tensor.index_select(0, index)
        return repeated.contiguous(memory_format=layout) if repeated.ndim == 4 else repeated  # queries are no images

    names = tuple(batch.names[i % len(batch.names)] for i in range(count))
    return replace(batch.mapped(repeat), names=names)


@dataclass(frozen=True)
class DeviceTrial:
    """On an accelerator: its allocator says when memory is full, and nothing is lost."""

    device: torch.device
    step: Step

    def fits(self, count: int) -> bool:
        """Whether an iteration with ``count`` samples goes through."""
        try:
            self.step(count)
        except (RuntimeError, MemoryError) as error:
            if not memory_is_full(error):
                raise
            return False
        finally:
            release_kept_memory(self.device)
        return True


@dataclass
class HostTrial:
    """On the CPU: a process that takes too much may be killed, so what would not fit is foreseen and not tried.

    Attributes:
        step: does an iteration with so many samples.
        held: bytes that the process had before the first trial.
        limit: most bytes that it may have.
        peaks: samples -> most bytes that the process had during their iteration.
    """

    step: Step
    held: int
    limit: float
    peaks: dict[int, int] = field(default_factory=dict)

    @classmethod
    def create(cls, step: Step) -> HostTrial:
        """Measured against what is free now.

        Raises:
            InputError: the system does not tell.
        """
        reset_peak_memory()
        held, free = peak_memory(), available_memory()
        if not held or free is None:
            raise InputError("--largest_batch: this system does not tell how much memory is free; try it on a GPU")
        return cls(step, held, held + _SHARE_OF_HOST * free)

    def fits(self, count: int) -> bool:
        """Whether an iteration with ``count`` samples stays below the limit; one that is bound not to is not done."""
        if self.foreseen(count) > self.limit:
            return False
        reset_peak_memory()
        try:
            self.step(count)
        except (RuntimeError, MemoryError) as error:
            if not memory_is_full(error):
                raise
            return False
        self.peaks[count] = peak_memory()
        return self.peaks[count] <= self.limit

    def foreseen(self, count: int) -> float:
        """Bytes that ``count`` samples will need, on the line through the two largest trials."""
        if not self.peaks:
            return 0.0
        *_, (n, peak) = line = sorted({0: self.held, **self.peaks}.items())
        before, earlier = line[-2]
        return peak + (peak - earlier) / (n - before) * (count - n)
