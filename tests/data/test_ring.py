"""Batches in memory that a worker and the main process share."""

from __future__ import annotations

import pickle
from collections import deque

import numpy as np
import pytest
import torch
from torch import Tensor

from data.ring import Parcel, Receiver, Ring, batch_memory
from data.samples import DegradationDraws, PixelBatch, Points
from utils.errors import InputError

TURNS = 3


def batch_of(number: int, side: int = 4) -> PixelBatch:
    """What a data set makes: images in the memory for batches, the rest beside it."""
    gt = batch_memory((2, 3, side, side), torch.uint8)
    gt[...] = number % 256
    lq = batch_memory((2, 3, 2, 2), torch.float32)
    lq[...] = number / 7
    points = Points(batch_memory((2, 5), torch.int32).fill_(number), torch.tensor([side, number], dtype=torch.int32))
    draws = DegradationDraws(torch.full((2, 3, 5, 5), float(number)), torch.full((2, 4), number / 3).double(), (1, 2))
    return PixelBatch(lq, gt, ("a", "b"), 0, number, draws=draws, points=points)


def tensors(batch: PixelBatch) -> list[Tensor]:
    assert batch.lq is not None
    assert batch.draws is not None
    assert batch.points is not None
    return [batch.lq, batch.gt, batch.draws.kernels, batch.draws.uniform, *batch.points]


def assert_equal(ours: PixelBatch, theirs: PixelBatch) -> None:
    assert ours.names == theirs.names
    assert ours.step == theirs.step
    for a, b in zip(tensors(ours), tensors(theirs), strict=True):
        assert a.dtype == b.dtype
        assert a.equal(b)


def test_batches_arrive_as_they_were_made_and_memory_is_shared_once() -> None:
    """As many parcels as the workers prepare ahead are made before one is opened, and one that was opened is kept."""
    ring, receiver = Ring(TURNS), Receiver(pin=False)
    on_their_way: deque[Parcel] = deque()
    opened, fresh = [], []
    for number in range(12):
        parcel = ring.parcel(0, lambda number=number: batch_of(number))  # type: ignore[misc]
        fresh.append(len(parcel.fresh))
        on_their_way.append(parcel)
        if len(on_their_way) == TURNS:
            opened.append(receiver.opened(on_their_way.popleft()))
    opened += map(receiver.opened, on_their_way)
    assert fresh == [5] * TURNS + [0] * 9
    for number, batch in enumerate(opened):
        assert_equal(batch, batch_of(number))


def test_nothing_but_places_is_sent_for_memory_that_is_known() -> None:
    ring = Ring(1)
    ring.parcel(0, lambda: batch_of(0))
    parcel = ring.parcel(0, lambda: batch_of(1, 4))
    assert not parcel.fresh
    assert len(pickle.dumps(parcel)) < 1500
    assert isinstance(parcel.uniform, np.ndarray)


def test_a_larger_batch_gets_larger_memory() -> None:
    ring, receiver = Ring(TURNS), Receiver(pin=False)
    for number, (side, fresh) in enumerate([(4, 5), (4, 5), (4, 5), (8, 1), (2, 0), (8, 1), (8, 0)]):
        parcel = ring.parcel(1, lambda number=number, side=side: batch_of(number, side))  # type: ignore[misc]
        assert len(parcel.fresh) == fresh
        assert_equal(receiver.opened(parcel), batch_of(number, side))


def test_workers_have_memory_of_their_own() -> None:
    rings, receiver = [pickle.loads(pickle.dumps(Ring(TURNS))) for _ in range(2)], Receiver(pin=False)  # as spawn does
    parcels = [ring.parcel(worker, lambda worker=worker: batch_of(worker)) for worker, ring in enumerate(rings)]
    for worker, parcel in enumerate(parcels):
        assert_equal(receiver.opened(parcel), batch_of(worker))


def test_a_batch_that_fails_takes_no_turn() -> None:
    def broken() -> PixelBatch:
        batch_of(1)
        raise InputError("broken")

    ring, receiver = Ring(TURNS), Receiver(pin=False)
    first = ring.parcel(0, lambda: batch_of(0))
    with pytest.raises(InputError):
        ring.parcel(0, broken)
    assert_equal(receiver.opened(first), batch_of(0))
    second = ring.parcel(0, lambda: batch_of(2))
    assert (first.turn, second.turn) == (0, 1)
    assert_equal(receiver.opened(second), batch_of(2))
    assert batch_memory((3,), torch.float32).is_shared() is False  # and the memory is that of the process again
