"""The loss terms of the section ``train``: which losses each key may hold, and the keys that stand beside a loss's own.

``mesa_opt: {type: L1Loss, start_ratio: 0.33}`` is an L1Loss with one key more. Such a mapping becomes an object that is
both: an ``L1Loss``, with all that it can do, and a :class:`MesaTerm`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from losses import ADVERSARIAL, LOSSES, PERCEPTUAL, GANLoss, LossOptions, PerceptualLossOptions, ScheduledOptions
from utils.checked import Checked
from utils.errors import InputError
from utils.typed import OneOf, option
from utils.wording import shortened

LOG_NAMES: Mapping[str, str] = {
    "pixel_opt": "pix", "wave_opt": "wave", "fft_opt": "fft", "ldl_opt": "ldl", "perceptual_opt": "percep",
    "mesa_opt": "mesa", "gan_opt": "gan",
}  # fmt: skip
"""The keys of the section that hold a loss -> what the loss is called in logs, after l_ or l_g_."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArtefactKeys(Checked):
    """The key of ``ldl_opt`` beside those of its loss."""

    detach_map: bool = option(
        "the map of artefacts is a constant for the gradient; false: gradients flow through it too, as published", False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MesaKeys(Checked):
    """The key of ``mesa_opt`` beside those of its loss."""

    start_ratio: float = option(
        "the loss acts from iteration int(start_ratio * total_iter) on", 0.33, minimum=0, maximum=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedKeys(Checked):
    """The keys of an entry of ``losses`` beside those of its loss."""

    name: str | None = option("what it is called in logs, after l_ or l_g_; null: fft for FFTLoss", None)
    target: Literal["gt", "gt_usm"] = option("what the output is compared with: the true image, or it sharpened", "gt")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is None:
            object.__setattr__(self, "name", log_name(type(self).__name__))
        elif not re.fullmatch(r"\w{1,50}", self.name, re.ASCII):
            raise InputError(f"name: expected letters, digits and _, got {shortened(repr(self.name))}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArtefactTerm(ArtefactKeys, LossOptions):
    """A loss that acts on artefacts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MesaTerm(MesaKeys, LossOptions):
    """A loss between the output and that of the EMA weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedTerm(NamedKeys, ScheduledOptions):
    """A loss with a name: ``LossOptions``, or ``PerceptualLossOptions``."""


def log_name(kind: str) -> str:
    """What a loss of a type is called in logs: fft for FFTLoss."""
    return kind.removesuffix("Loss").lower()


class Origin(NamedTuple):
    """Where the keys of the mapping of a term come from.

    Attributes:
        beside: the dataclass of those beside the keys of the loss.
        loss: the dataclass of the loss.
    """

    beside: type
    loss: type


@functools.cache
def _both(name: str, term: type, keys: type, loss: type) -> type:
    """The class of objects that are a term and a kind of loss."""
    members = {"__doc__": loss.__doc__, "__module__": loss.__module__, "ORIGIN": Origin(keys, loss)}
    made: type = dataclasses.make_dataclass(name, [], bases=(term, loss), namespace=members, frozen=True, kw_only=True)
    return made


def _terms(term: type, keys: type, table: Mapping[str, type]) -> dict[str, type]:
    """A table of losses as one of terms."""
    return {name: _both(name, term, keys, loss) for name, loss in table.items()}


# Mappings whose key "type" picks one of the dataclasses of a table.
AnyLoss = Annotated[LossOptions, OneOf(lambda: LOSSES, "loss")]
AnyPerceptual = Annotated[PerceptualLossOptions, OneOf(lambda: PERCEPTUAL, "perceptual loss")]
AnyAdversarial = Annotated[GANLoss, OneOf(lambda: ADVERSARIAL, "adversarial loss")]
AnyArtefact = Annotated[ArtefactTerm, OneOf(lambda: _terms(ArtefactTerm, ArtefactKeys, LOSSES), "loss")]
AnyMesa = Annotated[MesaTerm, OneOf(lambda: _terms(MesaTerm, MesaKeys, LOSSES), "loss")]
AnyNamed = Annotated[NamedTerm, OneOf(lambda: _terms(NamedTerm, NamedKeys, {**LOSSES, **PERCEPTUAL}), "loss")]
