"""Which sample comes when: one endless stream, the same for every number of workers and every way of resuming.

Shapes: n images, q enlarge ratio, N = ceil(n q) samples per epoch, G ranks, b batch per rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from data.samples import SampleKey, Share

# Keeps the seeds of two runs' epochs apart (they meet after a million epochs); manual_seed 0 gives BasicSR's orders.
_RUNS_APART = 1_000_003
_LARGEST_PRIME = 4_294_967_291  # the generator looks at 32 bits of its seed only; a prime folds the others in


def shares_of(counts: Sequence[int], weights: Sequence[float], ratio: float) -> tuple[Share, ...]:
    """An epoch sees each image of folder i ``ratio * weights[i]`` times."""
    return tuple(
        Share(count, max(1, math.ceil(count * weight * ratio))) for count, weight in zip(counts, weights, strict=True)
    )


def epoch_length(images: int, ratio: float, shares: Sequence[Share] = ()) -> int:
    """N, the samples of one epoch."""
    return sum(share.samples for share in shares) if shares else math.ceil(images * ratio)


def image_of(epoch: int, position: int, images: int, shares: Sequence[Share] = ()) -> int:
    """The image that a position of an epoch shows.

    With shares, positions go through the folders one after another. A folder of which an epoch shows only a part goes
    on with its next images in the next epoch: over the epochs all are seen equally often.
    """
    first = 0
    for share in shares:
        if position < share.samples:
            return first + (epoch * share.samples + position) % share.images
        first, position = first + share.images, position - share.samples
    return position % images


def epoch_order(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The positions 0 .. length-1 of one epoch in the order in which they are used."""
    generator = torch.Generator()
    generator.manual_seed((seed * _RUNS_APART + epoch) % _LARGEST_PRIME)
    return torch.randperm(length, generator=generator).numpy()


def sample_stream(
    images: int, ratio: float, seed: int, start: int = 0, stride: int = 1, shares: Sequence[Share] = ()
) -> Iterator[SampleKey]:
    """Samples ``start``, ``start + stride``, ... of the stream, for ever; epochs follow each other without a gap."""
    length = epoch_length(images, ratio, shares)
    place = start
    current, order = -1, np.empty(0, np.int64)
    while True:
        epoch, within = divmod(place, length)
        if epoch != current:
            current, order = epoch, epoch_order(length, seed, epoch)
        position = int(order[within])
        yield SampleKey(epoch, position, image_of(epoch, position, images, shares))
        place += stride


def batch_stream(
    images: int, ratio: float, seed: int, batch: int, *, start: int, stop: int, rank: int = 0, world_size: int = 1,
    shares: Sequence[Share] = (),
) -> Iterator[list[SampleKey]]:  # fmt: skip
    """The batches ``start`` .. ``stop - 1`` of one rank.

    Batch t of rank r holds the samples t G b + j G + r, j = 0 .. b-1, of the stream: the ranks together see what one
    rank with the batch G b would see, nothing is dropped at the end of an epoch, and nothing is seen twice.
    """
    stream = sample_stream(images, ratio, seed, start * world_size * batch + rank, world_size, shares)
    for _ in range(start, stop):
        yield [next(stream) for _ in range(batch)]
