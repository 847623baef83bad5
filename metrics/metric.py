"""What every metric of an option file is: a frozen set of options that measures outputs of networks."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, TypeVar

from torch import Tensor

from metrics.color import Image
from utils.checked import Checked
from utils.errors import InputError
from utils.typed import option

Values = TypeVar("Values", Image, Tensor)


class UndefinedScoreError(InputError):
    """What the metric measures does not exist in this image: of others it can make a score."""


class Output(NamedTuple):
    """An output of a network and its true image, rounded to 8 bits and not.

    Attributes:
        levels: uint8 [H, W, 3] R G B.
        true_levels: the true image, likewise; None where there is none.
        values: floats [3, H, W] in [0, 1], on the same device.
        true_values: the true image, likewise.
        scale: high-resolution size / low-resolution size.
        shared: what one metric has made of the images that another one may use: PSNR and SSIM measure the same Y.
    """

    levels: Tensor
    true_levels: Tensor | None
    values: Tensor
    true_values: Tensor | None
    scale: float
    shared: dict[tuple[int, bool], tuple[Image, Image]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric(Checked, ABC):
    """Options of a metric.

    Attributes:
        needs_reference: whether the metric compares with the true image.
    """

    needs_reference: ClassVar[bool] = True
    IGNORED: ClassVar[Mapping[str, str]] = {"input_order": "the images handed to metrics are always [H, W, C]"}

    better: Literal["higher", "lower"] = option("which direction counts as better when the best is recorded", "higher")

    def border_at(self, scale: float) -> int:
        """Pixels that are dropped on each side of images of a scale."""
        return int(getattr(self, "crop_border", 0))

    @abstractmethod
    def of_output(self, output: Output) -> float:
        """The value for one output.

        Raises:
            UndefinedScoreError: there is none, for what the image shows.
            InputError: the image cannot be measured.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelMetric(Metric):
    """Options of a metric of 8-bit images; call it with R G B ones."""

    @abstractmethod
    def __call__(self, image: Image, reference: Image | None = None) -> float:
        """The value for one image, uint8 [H, W, 3] R G B, and its true image of the same shape.

        Raises:
            UndefinedScoreError: there is none, for what the image shows.
            InputError: the image cannot be measured.
        """

    def of_tensors(self, image: Tensor, reference: Tensor | None = None) -> float:
        """The value for tensors, uint8 [H, W, 3] on any device; here they are brought to the host."""
        return self(image.cpu().numpy(), None if reference is None else reference.cpu().numpy())

    def of_output(self, output: Output) -> float:
        """See :class:`Metric`."""
        return self.of_tensors(output.levels, output.true_levels)


def require(reference: Values | None) -> Values:
    """``reference``, or a ValueError when there is none."""
    if reference is None:
        raise ValueError("this metric compares with the true image, and none was given")
    return reference
