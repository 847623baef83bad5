"""What data sets hand out, and what training and evaluation ask of them.

Shapes: B samples, h w low-resolution pixels, H W high-resolution pixels; C is 3, or 1 for ``color: y``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from data.dataset_options import DatasetOptions
from data.images import to_unit
from data.sampler import SampleKey

Phase = Literal["train", "val", "test"]


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


class PixelBatch(NamedTuple):
    """A training batch as it leaves the workers: 8 bit, a quarter of the bytes.

    Attributes:
        lq: uint8 [B, 3, h, w].
        gt: uint8 [B, 3, H, W].
        names: the file of each sample.
        epoch: of the first sample.
    """

    lq: Tensor
    gt: Tensor
    names: tuple[str, ...]
    epoch: int


class EvalDataset(Protocol):
    """Whole images, in a fixed order."""

    name: str
    phase: Phase

    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> Sample:
        """One whole image; raises InputError when it cannot be used."""

    def scan(self) -> tuple[str, ...]:
        """Read everything; what is wrong with which image."""


class TrainDataset(Protocol):
    """Random patches that only depend on their keys."""

    name: str
    phase: Phase
    seed: int

    def __len__(self) -> int:
        """Number of images."""

    @property
    def epoch_length(self) -> int:
        """Samples of one epoch."""

    def sample(self, key: SampleKey) -> Sample:
        """One patch; raises InputError when its image cannot be used."""

    def collect(self, keys: Sequence[SampleKey]) -> PixelBatch:
        """The patches of a batch, not yet converted."""

    def convert(self, pixels: Tensor) -> Tensor:
        """uint8 [..., 3, H, W] -> float32 [..., C, H, W], as the options ask; on the device of ``pixels``."""

    def preload(self) -> None:
        """Decode what is to be kept in memory, before worker processes are started."""

    def scan(self) -> tuple[str, ...]:
        """Read everything; what is wrong with which image."""


def convert(pixels: Tensor, options: DatasetOptions) -> Tensor:
    """uint8 [..., 3, H, W] -> float32 [..., C, H, W]: in [0, 1], then luminance, then normalised, where asked for."""
    values = to_unit(pixels)
    if options.color == "y":
        values = luminance(values)
    if options.mean is not None:
        values = values - _per_channel(options.mean, values)
    if options.std is not None:
        values = values / _per_channel(options.std, values)
    return values


def luminance(rgb: Tensor) -> Tensor:
    """Y of BT.601, 16/255 .. 235/255: [..., 3, H, W] in [0, 1] -> [..., 1, H, W]; in float64, as BasicSR does."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=rgb.device).view(3, 1, 1)
    y = (rgb.to(torch.float64) * weights).sum(dim=-3, keepdim=True) + 16
    return (y / 255).to(rgb.dtype)


def _per_channel(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).view(-1, 1, 1)
