"""What every loss of an option file is: frozen options, and the callable that they build."""

from __future__ import annotations

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from utils.checked import Checked
from utils.errors import InputError
from utils.typed import option

Reduction = Literal["mean", "sum", "none"]

_LAST = 10**9  # as train.total_iter


class Loss(Protocol):
    """A loss that is ready to be called; it may hold weights, on the device that it was built for."""

    @property
    def reduction(self) -> Reduction:
        """How it sums up over a batch: gradient accumulation weighs the micro-batches of a "mean" by their sizes."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of outputs [B, C, H, W] against targets of the same shape, times its weight."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduledOptions(Checked, ABC):
    """The key that every loss has, those of the discriminator's output and of VGG's features included."""

    weight_schedule: tuple[tuple[int, float], ...] | None = option(
        "factor of the loss over the training, as points [iteration, factor]: linear between two points, constant "
        "before the first and after the last; null: 1 throughout",
        None,
        minimum=0,
        maximum=_LAST,
    )

    def __post_init__(self) -> None:
        """Look at the points together."""
        super().__post_init__()
        points = self.weight_schedule
        if points is None:
            return
        if not any(factor > 0 for _, factor in points):
            raise InputError("weight_schedule: no point has a factor above 0: the loss would never act; leave it out")
        for (before, _), (after, _) in itertools.pairwise(points):
            if after <= before:
                raise InputError(
                    f"weight_schedule: the iterations of its points have to rise, but {after} comes after {before}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossOptions(ScheduledOptions):
    """The keys that every loss between output and target has.

    Attributes:
        pointwise: whether the loss of a pixel depends on that pixel alone, so that it is defined for a set of points
            too, as training at any scale draws them.
    """

    pointwise: ClassVar[bool] = False

    loss_weight: float = option("factor of this loss in the total", 1.0, above=0, maximum=1e6)

    @abstractmethod
    def build(self, device: torch.device) -> Loss:
        """The loss, with whatever weights it holds on ``device``."""


def factor_at(options: ScheduledOptions, iteration: int) -> float:
    """The factor by which ``weight_schedule`` multiplies a loss in an iteration; the first iteration is 1."""
    points = options.weight_schedule
    if points is None:
        return 1.0
    if iteration <= points[0][0]:
        return points[0][1]
    for (start, low), (end, high) in itertools.pairwise(points):
        if iteration <= end:
            share = (iteration - start) / (end - start)
            return (1 - share) * low + share * high
    return points[-1][1]


def acts_from(points: Sequence[tuple[int, float]] | None) -> int | None:
    """The first iteration in which the factor of a ``weight_schedule`` is above 0; None: there is none."""
    if points is None or (points and points[0][1] > 0):
        return 1
    return next((before + 1 for (before, _), (_, factor) in itertools.pairwise(points) if factor > 0), None)


def in_full_precision(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors in their common dtype, float32 at least: outputs are half precision under ``train.amp``."""
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    return first.to(dtype), second.to(dtype)


def check_shapes(prediction: Tensor, target: Tensor) -> None:
    """Raise ValueError where the shapes of output and target differ."""
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {list(prediction.shape)} and target {list(target.shape)} differ in shape")
