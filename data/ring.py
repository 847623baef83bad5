"""Batches on their way from worker processes: memory that is shared once, and filled in turns.

A batch in new shared memory costs its sender a file, its receiver a connection and a mapping, and both the touching of
fresh pages. Here each worker keeps as many sets of buffers as batches of it can be on their way at a time, and writes
each batch into the set whose turn it is. The main process maps a buffer when it sees it first; afterwards it gets
numbers, and copies the batch out. The buffers have no names in the file system: however the processes end, the system
takes them back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

from data.samples import PixelBatch


class Place(NamedTuple):
    """Where a tensor lies: from the first byte of one of the buffers of a set on."""

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class Parcel(NamedTuple):
    """A batch as it is sent.

    Attributes:
        worker: whose buffers it lies in.
        turn: the set of buffers.
        fresh: those of the set, by number, that the main process has not seen yet.
        batch: with places where it has tensors.
        uniform: ``draws.uniform`` of the batch, which is small enough to be sent itself.
    """

    worker: int
    turn: int
    fresh: Mapping[int, Tensor]
    batch: PixelBatch
    uniform: NDArray[Any] | None


@dataclass
class _Buffers:
    """One set of a worker: shared memory, uint8, and how much of it the batch that is being made has taken."""

    memory: list[Tensor] = field(default_factory=list)
    fresh: set[int] = field(default_factory=set)
    taken: int = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor in the next buffer, which is made where there is none, or none as large."""
        number, size = self.taken, max(1, math.prod(shape) * dtype.itemsize)
        self.taken += 1
        if number == len(self.memory) or self.memory[number].numel() < size:
            self.memory[number:] = [
                torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size)),
                *self.memory[number + 1 :],
            ]
            self.fresh.add(number)
        return _view(self.memory[number], Place(number, tuple(shape), dtype))

    def place_of(self, tensor: Tensor) -> Place:
        """Where a tensor of the batch lies; one that is not in these buffers is copied there."""
        for number, memory in enumerate(self.memory[: self.taken]):
            if tensor.data_ptr() == memory.data_ptr() and tensor.is_contiguous():
                return Place(number, tuple(tensor.shape), tensor.dtype)
        number = self.taken
        self.empty(tensor.shape, tensor.dtype).copy_(tensor)
        return Place(number, tuple(tensor.shape), tensor.dtype)


_current: ContextVar[_Buffers | None] = ContextVar("buffers", default=None)


def batch_memory(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An empty tensor for a batch: in the buffers whose turn it is, else in memory of this process."""
    buffers = _current.get()
    return torch.empty(tuple(shape), dtype=dtype) if buffers is None else buffers.empty(shape, dtype)


class Ring:
    """The sets of buffers of a worker process.

    Args:
        turns: how many; a set is filled anew when the main process has opened all but the last ``turns - 1`` parcels.
    """

    def __init__(self, turns: int) -> None:
        self.sets = [_Buffers() for _ in range(turns)]
        self.count = 0

    def parcel(self, worker: int, collect: Callable[[], PixelBatch]) -> Parcel:
        """What ``collect`` makes, in the buffers whose turn it is."""
        turn = self.count % len(self.sets)
        buffers = self.sets[turn]
        buffers.taken = 0
        token = _current.set(buffers)
        try:
            batch = collect()
        finally:
            _current.reset(token)
        self.count += 1
        places: Callable[[Tensor], Any] = buffers.place_of
        batch, uniform, nothing = batch.moved(places), None, cast(Any, None)
        if batch.draws is not None:
            uniform = batch.draws.uniform.numpy()
            batch = batch._replace(draws=batch.draws._replace(uniform=nothing))
        fresh, buffers.fresh = {number: buffers.memory[number] for number in buffers.fresh}, set()
        return Parcel(worker, turn, fresh, batch, uniform)


class Receiver:
    """The main process's end of the rings.

    Args:
        pin: copy batches into memory from which a GPU can copy by itself.
    """

    def __init__(self, *, pin: bool) -> None:
        self.pin = pin
        self.buffers: dict[tuple[int, int, int], Tensor] = {}

    def opened(self, parcel: Parcel) -> PixelBatch:
        """The batch, copied out of the buffers: its worker may write to them again."""
        for number, memory in parcel.fresh.items():
            self.buffers[parcel.worker, parcel.turn, number] = memory

        def copied(place: Any) -> Tensor:
            shared = _view(self.buffers[parcel.worker, parcel.turn, place.number], place)
            return torch.empty(place.shape, dtype=place.dtype, pin_memory=self.pin).copy_(shared)

        batch = parcel.batch.moved(copied)
        if batch.draws is not None and parcel.uniform is not None:
            batch = batch._replace(draws=batch.draws._replace(uniform=torch.from_numpy(parcel.uniform)))
        return batch


def _view(memory: Tensor, place: Place) -> Tensor:
    return memory[: math.prod(place.shape) * place.dtype.itemsize].view(place.dtype).view(place.shape)
