"""What data sets share that make low-resolution patches of high-resolution ones.

Shapes: B samples, H W high-resolution and h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from data.patches.dataset import PatchDataset, PatchOptions, batch_memory
from data.samples import Phase, PixelBatch, SampleKey
from utils.typed import option

# Bytes of low-resolution patches made at a time: larger pieces, given back again and again, make the heap grow.
_AT_ONCE = 2**16


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnTheFlyOptions(PatchOptions):
    """Of data sets that make their low-resolution patches."""

    lr_on: Literal["loader", "device"] = option(
        "where low-resolution patches are made: by the processes that prepare batches, or per batch on the device; the "
        "pixels are the same",
        "loader",
    )


class OnTheFlyDataset(PatchDataset):
    """Patches whose low-resolution side is made of the batch, by the loader or on the device.

    Args:
        options: the section of the option file.
        scale, seed, phase, lq_folders, template: see :class:`data.patches.dataset.PatchDataset`, errors too.
        makes_lq: False where patches bring their low-resolution side.
    """

    def __init__(
        self,
        options: OnTheFlyOptions,
        scale: int,
        seed: int,
        phase: Phase,
        lq_folders: tuple[Path, ...] = (),
        template: str = "{}",
        makes_lq: bool = True,
    ) -> None:
        self._makes_lq, self._in_loader = makes_lq, options.lr_on == "loader"
        super().__init__(options, scale, seed, phase, lq_folders, template)

    def preload(self) -> None:
        """See :meth:`data.patches.dataset.PatchDataset.preload`."""
        super().preload()
        if self._makes_lq and self._in_loader:
            # Whatever has to be compiled is, by this process and not by each of its workers.
            self._low(torch.zeros(1, 3, 8 * self.scale, 8 * self.scale, dtype=torch.uint8))

    def collect(
        self, keys: Sequence[SampleKey], step: int = 0, reading: Callable[[str], None] | None = None
    ) -> PixelBatch:
        """The patches of batch ``step``; ``reading`` is told each file before it is read; errors as :meth:`sample`."""
        batch = super().collect(keys, step, reading)
        if not (self._makes_lq and self._in_loader):
            return batch
        made = self._low(batch.gt[:1])
        lq = batch_memory((len(keys), *made.shape[1:]), made.dtype)
        lq[:1] = made
        count = max(1, _AT_ONCE // (made.numel() * made.element_size()))
        for start in range(1, len(keys), count):
            lq[start : start + count] = self._low(batch.gt[start : start + count])
        return batch._replace(lq=lq)

    def finish(self, batch: PixelBatch) -> tuple[Tensor, Tensor]:
        """Lq and gt as the network sees them, on the device of the batch."""
        if not self._makes_lq:
            return super().finish(batch)
        lq = self._low(batch.gt) if batch.lq is None else batch.lq
        return self.convert(lq), self.convert(self._own(batch.gt))

    @abstractmethod
    def _low(self, gt: Tensor) -> Tensor:
        """The low-resolution patches [B, 3, h, w] of what was cut, [B, 3, s h + margins, s w + margins]."""

    @abstractmethod
    def _own(self, gt: Tensor) -> Tensor:
        """What was cut without its margins, [B, 3, s h, s w]; a view."""
