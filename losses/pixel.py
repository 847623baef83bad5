"""Losses per pixel.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from losses.loss import LossOptions, Reduction, check_shapes, in_full_precision
from utils.checked import check_choice
from utils.typed import option


@dataclasses.dataclass(frozen=True)
class PixelLoss:
    """A weighted sum or mean of a function of the difference of two pixels.

    Attributes:
        loss_weight: factor of the result.
        reduction: how the values of the pixels become one; "none" leaves them as they are.
        element: the loss of each element of prediction - target, of any shape.
    """

    loss_weight: float
    reduction: Reduction
    element: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        check_choice("PixelLoss: reduction", self.reduction, Reduction)

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, a scalar unless ``reduction`` is "none".

        Args:
            prediction: [B, C, H, W], any dtype; below float32 it is computed in float32.
            target: the same shape.
            weight: importance per element, [B, C, H, W] or [B, 1, H, W]; the mean is then the weighted one.

        Raises:
            ValueError: the shapes differ.
        """
        check_shapes(prediction, target)
        prediction, target = in_full_precision(prediction, target)
        values = self.element(prediction - target)
        return self.loss_weight * self._reduce(values, weight)

    def _reduce(self, values: Tensor, weight: Tensor | None) -> Tensor:
        if weight is None:
            return values.mean() if self.reduction == "mean" else values.sum() if self.reduction == "sum" else values
        sizes = zip(weight.shape, values.shape, strict=False)
        if weight.ndim != values.ndim or any(given not in (1, wanted) for given, wanted in sizes):
            raise ValueError(f"weight {list(weight.shape)} does not fit the images {list(values.shape)}")
        weight = weight.to(values.dtype).expand_as(values)
        weighted = weight * values
        if self.reduction == "mean":
            return weighted.sum() / weight.sum()
        return weighted.sum() if self.reduction == "sum" else weighted


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelLossOptions(LossOptions):
    """A weight, a reduction, and what to do with the difference of two pixels."""

    pointwise: ClassVar[bool] = True

    reduction: Reduction = option("how the per-pixel losses become one number", "mean")

    @abstractmethod
    def element(self, difference: Tensor) -> Tensor:
        """The loss of each element of prediction - target."""

    def build(self, device: torch.device) -> PixelLoss:
        """The loss; it holds no weights, so it works on every device."""
        return PixelLoss(self.loss_weight, self.reduction, self.element)


@dataclasses.dataclass(frozen=True, kw_only=True)
class L1Loss(PixelLossOptions):
    """Mean absolute error."""

    def element(self, difference: Tensor) -> Tensor:
        """|d|."""
        return difference.abs()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MSELoss(PixelLossOptions):
    """Mean square error."""

    def element(self, difference: Tensor) -> Tensor:
        """d^2."""
        return difference.square()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CharbonnierLoss(PixelLossOptions):
    """Charbonnier loss: a mean absolute error that is smooth at 0 (Lai et al., CVPR 2017)."""

    eps: float = option(
        "added to the square under the root; at 0, equal pixels would have no gradient", 1e-12, minimum=1e-30, maximum=1
    )

    def element(self, difference: Tensor) -> Tensor:
        """sqrt(d^2 + eps)."""
        return (difference.square() + self.eps).sqrt()
