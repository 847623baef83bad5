"""What every metric of an option file is: a frozen set of options that can be called."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeVar

from torch import Tensor

from metrics.color import Image
from utils.checked import Checked
from utils.errors import InputError
from utils.typed import option

Values = TypeVar("Values", Image, Tensor)


class UndefinedScoreError(InputError):
    """What the metric measures does not exist in this image: of others it can make a score."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric(Checked, ABC):
    """Options of a metric; call it with 8-bit R G B images.

    Attributes:
        needs_reference: whether the metric compares with the true image.
    """

    needs_reference: ClassVar[bool] = True
    IGNORED: ClassVar[Mapping[str, str]] = {"input_order": "the images handed to metrics are always [H, W, C]"}

    better: Literal["higher", "lower"] = option("which direction counts as better when the best is recorded", "higher")

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


def require(reference: Values | None) -> Values:
    """``reference``, or a ValueError when there is none."""
    if reference is None:
        raise ValueError("this metric compares with the true image, and none was given")
    return reference
