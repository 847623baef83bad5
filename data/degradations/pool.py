"""A pool of training pairs, from which batches are mixed.

All images of a batch are resized by the same factors. The pool mixes pairs of many batches, so that a training batch
sees many degradations. Each place of a batch has slots of its own: it takes a pair out of one of them at random and
puts the new pair there. What comes out therefore does not depend on how a batch is shared among processes, and what the
pool holds at any iteration follows from the random numbers alone: a resumed run makes those pairs again.

Shapes: b batch per process, d slots of each place, G processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.errors import InputError
from utils.seed import random_stream

_POOL = 0x9001  # sets these streams apart from those of samples


class PairPool:
    """The pool of one process.

    Args:
        size: pairs that are kept, a multiple of ``batch``.
        batch: samples per batch of this process.
        seed: ``manual_seed``.
        rank: of this process.
        world_size: number of processes.

    Raises:
        InputError: ``size`` is no multiple of ``batch``.
    """

    def __init__(self, size: int, batch: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if size % batch:
            lower = max(size - size % batch, batch)
            raise InputError(
                f"queue_size: expected a multiple of batch_size_per_gpu {batch}, got {size}; {lower} is one"
            )
        self.depth, self.seed = size // batch, seed
        self.places = tuple(j * world_size + rank for j in range(batch))  # of this process in the shared batch
        self._lq: Tensor | None = None  # [b, d, C, h, w]
        self._gt: Tensor | None = None  # [b, d, C, H, W]
        self._names = [[""] * self.depth for _ in range(batch)]
        self._kept: dict[int, list[tuple[int, int]]] = {}

    def slot(self, place: int, step: int) -> int:
        """Where batch ``step`` puts the pair of a place of the shared batch."""
        return step if step < self.depth else int(random_stream(self.seed, _POOL, place, step).integers(self.depth))

    def resume(self, start: int) -> list[int]:
        """The batches of which the pool holds pairs before batch ``start``; they are to be given to :meth:`refill`."""
        self._kept = {}
        for j, place in enumerate(self.places):
            missing = set(range(min(self.depth, start)))
            step = start
            while missing:
                step -= 1
                slot = self.slot(place, step)
                if slot in missing:
                    missing.remove(slot)
                    self._kept.setdefault(step, []).append((j, slot))
        return sorted(self._kept)

    def refill(self, step: int, lq: Tensor, gt: Tensor, names: Sequence[str]) -> None:
        """Put back those pairs of an earlier batch that :meth:`resume` has found to be in the pool."""
        kept_lq, kept_gt = self._room(lq, gt)
        for j, slot in self._kept[step]:
            kept_lq[j, slot], kept_gt[j, slot] = lq[j], gt[j]
            self._names[j][slot] = names[j]

    def exchange(
        self, step: int, lq: Tensor, gt: Tensor, names: Sequence[str]
    ) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """Put the pairs of batch ``step`` in; returns the batch to train on: these, until the pool is full."""
        kept_lq, kept_gt = self._room(lq, gt)
        slots = [self.slot(place, step) for place in self.places]
        rows = torch.arange(len(slots), device=lq.device)
        columns = torch.tensor(slots).to(lq.device, non_blocking=True)
        if step < self.depth:
            result = lq, gt, tuple(names)
        else:
            earlier = tuple(self._names[j][slot] for j, slot in enumerate(slots))
            result = kept_lq[rows, columns], kept_gt[rows, columns], earlier
        kept_lq[rows, columns], kept_gt[rows, columns] = lq, gt
        for j, slot in enumerate(slots):
            self._names[j][slot] = names[j]
        return result

    def _room(self, lq: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        if self._lq is None or self._gt is None:
            batch = len(self.places)
            self._lq = lq.new_zeros((batch, self.depth, *lq.shape[1:]))
            self._gt = gt.new_zeros((batch, self.depth, *gt.shape[1:]))
        return self._lq, self._gt
