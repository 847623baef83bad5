"""What every loss of an option file is: frozen options, and the callable that they build."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Literal, Protocol

import torch
from torch import Tensor

from utils.checked import Checked
from utils.typed import option

Reduction = Literal["mean", "sum", "none"]


class Loss(Protocol):
    """A loss that is ready to be called; it may hold weights, on the device that it was built for."""

    @property
    def reduction(self) -> Reduction:
        """How it sums up over a batch: gradient accumulation weighs the micro-batches of a "mean" by their sizes."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of outputs [B, C, H, W] against targets of the same shape, times its weight."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossOptions(Checked, ABC):
    """The keys that every loss of an option file has."""

    loss_weight: float = option("factor of this loss in the total", 1.0, above=0, maximum=1e6)

    @abstractmethod
    def build(self, device: torch.device) -> Loss:
        """The loss, with whatever weights it holds on ``device``."""
