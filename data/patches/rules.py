"""LR rules: where the low-resolution patches of a batch come from.

A rule works twice on a batch: :meth:`LrRule.prepare` in the process that collects it, :meth:`LrRule.finish` on the
device where it is trained on.

Shapes: B samples, H W high-resolution and h w low-resolution pixels, s scale, m margin in low-resolution pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from data.degradations import DegradationOptions, degrade, usm_sharpen
from data.degradations.kernels import Blur, draw_final_sinc
from data.degradations.synthesis import DRAWS
from data.images.files import to_unit
from data.resizing.matlab import downscale_windows
from data.ring import batch_memory
from data.samples import DegradationDraws, PixelBatch, SampleKey
from utils.seed import random_stream

# Bytes of low-resolution patches made at a time: larger pieces, given back again and again, make the heap grow.
_AT_ONCE = 2**16
_DEGRADATION = 0xDE64  # sets the streams of degradations apart from those of crops


class LrRule(Protocol):
    """How the low-resolution patches of a batch are made."""

    def compile(self) -> None:
        """Compile what :meth:`prepare` needs: once, instead of in each worker process."""

    def prepare(self, batch: PixelBatch, keys: Sequence[SampleKey]) -> PixelBatch:
        """The batch of these samples as it leaves the process that collects it."""

    def finish(self, batch: PixelBatch) -> tuple[Tensor, Tensor]:
        """Lq [B, 3, h, w] and gt [B, 3, H, W] on the device of the batch, uint8 or in [0, 1]."""


@dataclass(frozen=True)
class Paired:
    """The patches were cut out of low-resolution images."""

    def compile(self) -> None:
        """Nothing is compiled."""

    def prepare(self, batch: PixelBatch, keys: Sequence[SampleKey]) -> PixelBatch:
        """The batch itself."""
        return batch

    def finish(self, batch: PixelBatch) -> tuple[Tensor, Tensor]:
        """See :class:`LrRule`."""
        assert batch.lq is not None
        return batch.lq, batch.gt


@dataclass(frozen=True)
class Downsampled:
    """The patches are downsampled from the high-resolution ones, by the loader or on the device.

    Attributes:
        downsample: [B, 3, s (h + 2 m), s (w + 2 m)] and s -> [B, 3, h, w]; sees each patch on its own.
        scale: s.
        margin: m, how far ``downsample`` looks beyond the patch; the cutter has to cut as much.
        place: where it is done; the pixels are the same.
    """

    downsample: Callable[[Tensor, int], Tensor]
    scale: int
    margin: int = 0
    place: Literal["loader", "device"] = "loader"

    def compile(self) -> None:
        """See :class:`LrRule`."""
        if self.place == "loader":
            self.downsample(torch.zeros(1, 3, 8 * self.scale, 8 * self.scale, dtype=torch.uint8), self.scale)

    def prepare(self, batch: PixelBatch, keys: Sequence[SampleKey]) -> PixelBatch:
        """The batch with its low-resolution patches, where the loader makes them."""
        if self.place == "device":
            return batch
        first = self.downsample(batch.gt[:1], self.scale)
        lq = batch_memory((len(batch.gt), *first.shape[1:]), first.dtype)
        lq[:1] = first
        count = max(1, _AT_ONCE // (first.numel() * first.element_size()))
        for start in range(1, len(lq), count):
            lq[start : start + count] = self.downsample(batch.gt[start : start + count], self.scale)
        return batch._replace(lq=lq)

    def finish(self, batch: PixelBatch) -> tuple[Tensor, Tensor]:
        """See :class:`LrRule`."""
        lq = self.downsample(batch.gt, self.scale) if batch.lq is None else batch.lq
        height, width = batch.gt.shape[-2:]
        border = self.margin * self.scale
        return lq, batch.gt[..., border : height - border, border : width - border]


def matlab_bicubic(gt: Tensor, scale: int) -> Tensor:
    """As the files of the benchmark sets, rounded to 8 bits; looks two low-resolution pixels beyond the patch.

    Args:
        gt: uint8 [B, 3, s (h + 4), s (w + 4)].
        scale: s.

    Returns:
        uint8 [B, 3, h, w].
    """
    return downscale_windows(gt, scale, "last")


def matlab_bicubic_float(gt: Tensor, scale: int) -> Tensor:
    """As :func:`matlab_bicubic`, neither rounded nor clipped: float32, in [0, 1] and a little beyond."""
    # Rounded to float32 before and after: a window does not depend on what else is in its batch.
    unit = to_unit(gt) if gt.dtype == torch.uint8 else gt
    return downscale_windows(unit, scale).to(torch.float32)


@dataclass(frozen=True)
class Degraded:
    """The batch is degraded at random on the device, as for Real-ESRGAN; final patches are cut out of the result.

    They have a place of their own, so that the borders of what is degraded do not count.

    Attributes:
        blurs: the first and the second blur.
        final_sinc_prob: probability of a sinc filter at the end.
        options: all else that is drawn.
        gt_size: side of the final high-resolution patches.
        scale: s.
        seed: ``manual_seed``; decides everything together with the samples' keys and the number of the batch.
    """

    blurs: tuple[Blur, Blur]
    final_sinc_prob: float
    options: DegradationOptions
    gt_size: int
    scale: int
    seed: int

    def compile(self) -> None:
        """Nothing is compiled."""

    def prepare(self, batch: PixelBatch, keys: Sequence[SampleKey]) -> PixelBatch:
        """The batch with kernels and random numbers for each sample."""
        kernels, numbers, seeds = zip(*(self._draw(key) for key in keys), strict=True)
        draws = DegradationDraws(
            torch.from_numpy(np.stack(kernels).astype(np.float32)), torch.from_numpy(np.stack(numbers)), tuple(seeds)
        )
        return batch._replace(draws=draws)

    def finish(self, batch: PixelBatch) -> tuple[Tensor, Tensor]:
        """See :class:`LrRule`."""
        draws = batch.draws
        assert draws is not None
        gt = to_unit(batch.gt)
        sharp = usm_sharpen(gt) if self.options.gt_usm or self.options.lq_usm else gt
        lq = degrade(sharp, draws, self.options, self.scale, self.seed, batch.step)
        target = sharp if self.options.gt_usm else gt
        side = self.gt_size // self.scale
        room = lq.shape[-1] - side + 1
        places = [(int(top * room), int(left * room)) for top, left in draws.uniform[:, DRAWS:].tolist()]
        return _cut_each(lq, places, side, 1), _cut_each(target, places, side, self.scale)

    def _draw(self, key: SampleKey) -> tuple[np.ndarray, np.ndarray, int]:
        """Kernels [3, k, k], numbers [n] and the seed of the noise of one sample."""
        stream = random_stream(self.seed, key.epoch, key.position, _DEGRADATION)
        first, second = self.blurs
        kernels = (first.draw(stream), second.draw(stream), draw_final_sinc(stream, self.final_sinc_prob))
        return np.stack(kernels), stream.random(DRAWS + 2), int(stream.integers(2**63))


def _cut_each(images: Tensor, places: Sequence[tuple[int, int]], side: int, scale: int) -> Tensor:
    """A patch of [side * scale]^2 out of each image, at places counted in pixels ``scale`` times as large."""
    size = side * scale
    return torch.stack(
        [
            image[:, top * scale : top * scale + size, left * scale : left * scale + size]
            for image, (top, left) in zip(images, places, strict=True)
        ]
    )
