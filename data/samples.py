"""What data sets hand out, and what training and evaluation ask of them.

Shapes: B samples, h w low-resolution pixels, H W high-resolution pixels, Q pixels that a network for any scale is asked
for; C is 3, or 1 for ``color: y``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Phase = Literal["train", "val", "test"]


class SampleKey(NamedTuple):
    """One sample of the training stream; together with manual_seed it decides every random choice of the sample.

    Attributes:
        epoch: counted from 0.
        position: 0 .. N-1, different for every sample of an epoch, also where an epoch takes an image several times.
        image: number of the image; position mod n where folders have no weights.
    """

    epoch: int
    position: int
    image: int


class Share(NamedTuple):
    """How much of each epoch comes from one of several folders.

    Attributes:
        images: of the folder.
        samples: of the folder in one epoch, at least 1.
    """

    images: int
    samples: int


class Sample(NamedTuple):
    """One image, or one training patch.

    Attributes:
        lq: low-resolution, float32 [C, h, w] in [0, 1].
        gt: high-resolution, float32 [C, H, W]; None where there is none.
        name: base name of the low-resolution file (of the high-resolution one where the first is made from it).
        lq_path: where the low-resolution image is, or what it was made from.
        gt_path: where the high-resolution image is.
    """

    lq: Tensor
    gt: Tensor | None
    name: str
    lq_path: str
    gt_path: str | None


class DegradationDraws(NamedTuple):
    """The random numbers that degrade the samples of a batch; see :mod:`data.degradations`.

    Attributes:
        kernels: float32 [B, 3, k, k]: first blur, second blur, final sinc.
        uniform: float64 [B, n] in [0, 1), one row of numbers for each sample.
        seeds: of the noise of each sample.
    """

    kernels: Tensor
    uniform: Tensor
    seeds: tuple[int, ...]


class Queries(NamedTuple):
    """Points of high-resolution images that a network for any scale is asked for.

    Attributes:
        coord: [B, Q, 2] as (row, column), the centres of pixels; the image goes from -1 to 1 along both axes.
        cell: [B, 2], height and width of a pixel in these units.
    """

    coord: Tensor
    cell: Tensor


class Points(NamedTuple):
    """:class:`Queries` in whole numbers, as they leave the workers.

    Attributes:
        pixel: int32 [B, Q], pixels of square high-resolution patches, counted row by row.
        side: int32 [B], of these patches.
    """

    pixel: Tensor
    side: Tensor

    def queries(self) -> Queries:
        """The same as coordinates, on the device of the points; in float64, as exact as any network may want them."""
        side = self.side[:, None]
        place = torch.stack([self.pixel // side, self.pixel % side], -1)  # [B, Q, 2]
        size = side.to(torch.float64)
        return Queries((2 * place + 1) / size[..., None] - 1, (2 / size).expand(-1, 2))


class PixelBatch(NamedTuple):
    """A training batch as it leaves the workers: 8 bit where possible, a quarter of the bytes.

    Attributes:
        lq: uint8 or float32 [B, 3, h, w]; None where the device makes it from ``gt``.
        gt: uint8 or float32 [B, 3, H, W], perhaps with the margin that making ``lq`` needs.
        names: the file of each sample.
        epoch: of the first sample.
        step: number of the batch in the stream, from 0.
        skipped: what was wrong with images that others have taken the place of.
        draws: for data sets that degrade on the device.
        points: the pixels of high-resolution patches that ``gt`` [B, 3, Q, 1] holds, where those are not all.
    """

    lq: Tensor | None
    gt: Tensor
    names: tuple[str, ...]
    epoch: int
    step: int = 0
    skipped: tuple[str, ...] = ()
    draws: DegradationDraws | None = None
    points: Points | None = None

    def moved(self, move: Callable[[Tensor], Tensor]) -> PixelBatch:
        """The batch with every tensor put through ``move``."""
        draws = self.draws
        if draws is not None:
            draws = draws._replace(kernels=move(draws.kernels))  # the numbers are read by the host
        points = None if self.points is None else Points(*map(move, self.points))
        return self._replace(
            lq=None if self.lq is None else move(self.lq), gt=move(self.gt), draws=draws, points=points
        )


class EvalDataset(Protocol):
    """Whole images, in a fixed order.

    Attributes:
        name: of the data set.
        scale: of its images.
    """

    name: str
    scale: float

    def __len__(self) -> int:
        """Number of images."""

    def name_of(self, index: int) -> str:
        """Base name of an image, which need not be readable for that."""

    def read(self, index: int) -> Sample:
        """One whole image; raises InputError when it cannot be used."""

    def scan(self) -> tuple[str, ...]:
        """Read everything; what is wrong with which image."""


class TrainDataset(Protocol):
    """Random patches that only depend on their keys."""

    name: str
    seed: int

    def __len__(self) -> int:
        """Number of images."""

    @property
    def epoch_length(self) -> int:
        """Samples of one epoch."""

    @property
    def shares(self) -> tuple[Share, ...]:
        """What part of an epoch each folder has; empty where all images count alike."""

    @property
    def pool_size(self) -> int:
        """Pairs that are kept and mixed into later batches, for each process; 0: none."""

    @property
    def kept_bytes(self) -> int:
        """Bytes that images kept in memory will take, at least; 0 where none are kept."""

    def sample(self, key: SampleKey) -> Sample:
        """One patch; raises InputError when its image cannot be used."""

    def collect(
        self, keys: Sequence[SampleKey], step: int = 0, reading: Callable[[str], None] | None = None
    ) -> PixelBatch:
        """The patches of batch ``step``, not yet finished; ``reading`` is called with each file before it is read."""

    def finish(self, batch: PixelBatch) -> tuple[Tensor, Tensor]:
        """Lq and gt as the network sees them, float32 [B, C, h, w] and [B, C, H, W], on the device of the batch."""

    def preload(self) -> None:
        """Decode what is to be kept in memory, before worker processes are started."""

    def scan(self) -> tuple[str, ...]:
        """Read everything; what is wrong with which image."""
