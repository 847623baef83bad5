"""The distance of stationary wavelet bands."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch

from losses.loss import Loss, LossOptions
from utils.errors import InputError
from utils.typed import option

Wavelet = Literal[
    "haar",
    "db1", "db2", "db3", "db4", "db5", "db6", "db7", "db8", "db9", "db10",
    "db11", "db12", "db13", "db14", "db15", "db16", "db17", "db18", "db19", "db20",
    "sym2", "sym3", "sym4", "sym5", "sym6", "sym7", "sym8", "sym9", "sym10",
    "sym11", "sym12", "sym13", "sym14", "sym15", "sym16", "sym17", "sym18", "sym19", "sym20",
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveletLoss(LossOptions):
    """Mean absolute differences of the bands of the stationary (undecimated) wavelet transform, weighted and added."""

    wavelet: Wavelet = option("the filters, by PyWavelets' names", "haar")
    levels: int = option(
        "how often the low-pass band is split again, each time at twice the scale", 1, minimum=1, maximum=8
    )
    band_weights: tuple[float, float, float, float] = option(
        "factors of the bands LL, LH, HL, HH; LL is that of the last level, the others are those of every level. LH: "
        "low-pass along x, high-pass along y, hence horizontal edges",
        (1.0, 1.0, 1.0, 1.0),
        minimum=0,
        maximum=1e6,
    )
    norm: bool = option("filters divided by sqrt(2), so that the bands do not grow with the level", False)

    def __post_init__(self) -> None:
        """Look at the factors together."""
        super().__post_init__()
        if not any(self.band_weights):
            raise InputError("band_weights: all are 0, so the loss would never act; leave the loss out")

    def build(self, device: torch.device) -> Loss:
        """The loss, with its filters on ``device``."""
        raise NotImplementedError
