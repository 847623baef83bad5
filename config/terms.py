"""The loss terms of the section ``train``: which losses each key may hold, and the keys that stand beside a loss's own.

``mesa_opt: {type: L1Loss, start_ratio: 0.33}`` is an L1Loss with one key more. Such a mapping becomes an object that is
both: an ``L1Loss``, with all that it can do, and a :class:`MesaTerm`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import losses
from losses import LOSSES, LossOptions
from utils.checked import Checked
from utils.typed import OneOf, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArtefactTerm(Checked):
    """The key of ``ldl_opt`` beside those of its loss."""

    detach_map: bool = option(
        "the map of artefacts is a constant for the gradient; false: gradients flow through it too, as published", False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MesaTerm(Checked):
    """The key of ``mesa_opt`` beside those of its loss."""

    start_ratio: float = option(
        "the loss acts from iteration int(start_ratio * total_iter) on", 0.33, minimum=0, maximum=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedTerm(Checked):
    """The keys of an entry of ``losses`` beside those of its loss."""

    name: str | None = option("what it is called in logs, after l_ or l_g_; null: fft for FFTLoss", None)
    target: Literal["gt", "gt_usm"] = option("what the output is compared with: the true image, or it sharpened", "gt")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is None:
            object.__setattr__(self, "name", type(self).__name__.removesuffix("Loss").lower())


class Term(NamedTuple):
    """Where the keys of a mapping of a term come from."""

    beside: type
    loss: type


@functools.cache
def _both(name: str, term: type, loss: type) -> type:
    """The class of objects that are of a kind of loss and have the keys of a term too."""
    members = {"__doc__": loss.__doc__, "__module__": loss.__module__, "TERM": Term(term, loss)}
    made: type = dataclasses.make_dataclass(name, [], bases=(term, loss), namespace=members, frozen=True, kw_only=True)
    return made


def _with(term: type, table: Mapping[str, type]) -> dict[str, type]:
    """A table of losses whose mappings have the keys of a term too."""
    return {name: _both(name, term, loss) for name, loss in table.items()}


def _perceptual() -> Mapping[str, type]:
    return getattr(losses, "PERCEPTUAL", {})


def _adversarial() -> Mapping[str, type]:
    return getattr(losses, "ADVERSARIAL", {})


# Mappings whose key "type" picks one of the dataclasses of a table.
AnyLoss = Annotated[LossOptions, OneOf(lambda: LOSSES, "loss")]
AnyPerceptual = Annotated[Checked, OneOf(_perceptual, "perceptual loss", "PerceptualLoss")]
AnyAdversarial = Annotated[Checked, OneOf(_adversarial, "adversarial loss", "GANLoss")]
AnyArtefact = Annotated[ArtefactTerm, OneOf(lambda: _with(ArtefactTerm, LOSSES), "loss")]
AnyMesa = Annotated[MesaTerm, OneOf(lambda: _with(MesaTerm, LOSSES), "loss")]
AnyNamed = Annotated[NamedTerm, OneOf(lambda: _with(NamedTerm, {**LOSSES, **_perceptual()}), "loss")]
