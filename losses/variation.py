"""Total variation: the mean absolute difference of neighbouring pixels of the output.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from losses.loss import LossOptions
from losses.pixel import PixelLoss
from utils.typed import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedTVLoss(LossOptions):
    """Total variation of the output alone (Rudin et al., Physica D 1992): vertical plus horizontal differences."""

    reduction: Literal["mean", "sum"] = option(
        "how the differences become one number; the vertical and the horizontal ones have a mean each", "mean"
    )

    def build(self, device: torch.device) -> TotalVariation:
        """The loss; it holds no weights, so it works on every device."""
        return TotalVariation(PixelLoss(self.loss_weight, self.reduction, torch.abs))


@dataclasses.dataclass(frozen=True)
class TotalVariation:
    """What :class:`WeightedTVLoss` describes.

    Attributes:
        of_differences: the loss of neighbours.
    """

    of_differences: PixelLoss

    @property
    def reduction(self) -> Literal["mean", "sum"]:
        """How it sums up over a batch."""
        return "mean" if self.of_differences.reduction == "mean" else "sum"

    def __call__(self, prediction: Tensor, target: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """The total variation, a scalar.

        Args:
            prediction: [B, C, H, W], any dtype; below float32 it is computed in float32.
            target: not looked at.
            weight: importance per element, [B, C, H, W] or [B, 1, H, W]; of two neighbours the first one's counts.
        """
        rows = None if weight is None else weight[..., :-1, :]
        columns = None if weight is None else weight[..., :-1]
        vertical = self.of_differences(prediction[..., :-1, :], prediction[..., 1:, :], rows)
        return vertical + self.of_differences(prediction[..., :-1], prediction[..., 1:], columns)
