"""The losses of the generator's output: every key of an option file that holds one, by the names of BasicSR's logs.

Shapes: B images, C channels, H W pixels; training at any scale has Q points in the place of H W.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from config.schema import Target, TrainOptions
from data import usm_sharpen
from data.loader import Batch
from losses import (
    FeatureDistance,
    Loss,
    LossOptions,
    PerceptualLossOptions,
    ScheduledOptions,
    acts_from,
    artefact_map,
    factor_at,
)
from losses.loss import Reduction


@dataclass(frozen=True, kw_only=True)
class Term(ABC):
    """A loss of the option file, built.

    Attributes:
        name: what it is called in logs, without the prefix of the objective.
        options: whose ``weight_schedule`` scales it.
        target: what the output is compared with.
        first: the iteration from which on it acts.
        needs_ema: it looks at the output of the EMA weights too.
    """

    name: str
    options: ScheduledOptions
    target: Target = "gt"
    first: int = 1
    needs_ema: ClassVar[bool] = False

    @property
    @abstractmethod
    def reduction(self) -> Reduction:
        """How it sums up over a batch."""

    @property
    @abstractmethod
    def weights(self) -> Mapping[str, float]:
        """The log names of all that :meth:`values` gives, each with its weight."""

    @property
    def against(self) -> str:
        """What the output is compared with, for people."""
        return self.target

    @property
    def kind(self) -> str:
        """The ``type`` of the loss in an option file."""
        return type(self.options).__name__.removesuffix("Options")

    @abstractmethod
    def values(self, output: Tensor, target: Tensor, ema_output: Tensor | None) -> dict[str, Tensor]:
        """The loss of outputs [B, C, H, W] by log name: its own weight included, the schedule's factor not."""

    def factor(self, step: int) -> float:
        """The factor of the schedule in an iteration; 0 before the term begins."""
        return factor_at(self.options, step) if step >= self.first else 0.0


@dataclass(frozen=True, kw_only=True)
class PairTerm(Term):
    """A loss between output and target."""

    options: LossOptions
    loss: Loss

    @property
    def weights(self) -> Mapping[str, float]:
        """The one of the loss."""
        return {self.name: self.options.loss_weight}

    @property
    def reduction(self) -> Reduction:
        """That of the loss."""
        return self.loss.reduction

    def values(self, output: Tensor, target: Tensor, ema_output: Tensor | None) -> dict[str, Tensor]:
        """The loss."""
        return {self.name: self.loss(output, target)}


@dataclass(frozen=True, kw_only=True)
class EmaTerm(PairTerm):
    """MESA: a loss between the output and that of the EMA weights as they stand before the iteration."""

    needs_ema: ClassVar[bool] = True

    @property
    def against(self) -> str:
        """What the EMA weights make."""
        return "output of the EMA weights"

    def values(self, output: Tensor, target: Tensor, ema_output: Tensor | None) -> dict[str, Tensor]:
        """The loss."""
        assert ema_output is not None
        return {self.name: self.loss(output, ema_output)}


@dataclass(frozen=True, kw_only=True)
class MappedTerm(PairTerm):
    """LDL: a loss between output and target where the output has artefacts rather than texture.

    Attributes:
        detach: the map that says where is a constant for the gradient.
    """

    needs_ema: ClassVar[bool] = True
    detach: bool

    def values(self, output: Tensor, target: Tensor, ema_output: Tensor | None) -> dict[str, Tensor]:
        """The loss of both images times the map [B, 1, H, W]."""
        assert ema_output is not None
        output = output.to(torch.promote_types(output.dtype, target.dtype))
        where = artefact_map(output, target, ema_output, detach=self.detach)
        return {self.name: self.loss(where * output, where * target)}


@dataclass(frozen=True, kw_only=True)
class FeatureTerm(Term):
    """Losses between features of output and target.

    Attributes:
        logged: what the loss calls its terms, "percep" and "style" -> log name.
    """

    options: PerceptualLossOptions
    loss: FeatureDistance
    logged: Mapping[str, str]

    @property
    def reduction(self) -> Reduction:
        """That of the loss."""
        return self.loss.reduction

    @property
    def weights(self) -> Mapping[str, float]:
        """Those of the content and of the style that are above 0."""
        own = {"percep": self.options.perceptual_weight, "style": self.options.style_weight}
        return {self.logged[name]: weight for name, weight in own.items() if weight > 0}

    def values(self, output: Tensor, target: Tensor, ema_output: Tensor | None) -> dict[str, Tensor]:
        """The losses of the content and of the style."""
        return {self.logged[name]: value for name, value in self.loss.terms(output, target).items()}


class GeneratorTerms:
    """All losses of an option file but that of the discriminator's output, in the order in which they are added up.

    Args:
        options: of the training.
        device: where losses that hold weights keep them.
        ranks: processes that train together, whose gradients are averaged: the sum over the whole batch is the mean of
            their own sums, times their number.

    Attributes:
        terms: in their order.

    Raises:
        InputError: the weights of a loss cannot be read.
    """

    def __init__(self, options: TrainOptions, device: torch.device, *, ranks: int = 1) -> None:
        self.ranks = ranks
        self.terms = tuple(_terms(options, device))
        names = [name for term in self.terms for name in term.weights]
        assert len(set(names)) == len(names)  # the reader has looked

    @property
    def targets(self) -> set[Target]:
        """What is compared with."""
        return {term.target for term in self.terms}

    @property
    def full_step(self) -> int:
        """The iteration from which on each of them has begun to act."""
        return max((max(term.first, acts_from(term.options.weight_schedule) or 1) for term in self.terms), default=1)

    def described(self, prefix: str) -> list[str]:
        """Each in words, under its log name with a prefix."""
        return [
            f"{prefix}{name} ({term.kind}, weight {weight:g}{schedule_text(term.options)}, {term.against})"
            for term in self.terms
            for name, weight in term.weights.items()
        ]

    def needs_ema(self, step: int) -> bool:
        """Whether the output of the EMA weights is looked at in an iteration."""
        return any(term.needs_ema and term.factor(step) != 0 for term in self.terms)

    def __call__(
        self,
        output: Tensor,
        targets: Mapping[str, Tensor],
        ema_output: Tensor | None,
        step: int,
        *,
        share: float = 1.0,
    ) -> dict[str, Tensor]:
        """The losses of a batch or of a part of one, by their log names without a prefix, to be added up.

        A term that does not act in an iteration is 0, and not computed.

        Args:
            output: of the generator, [B, C, H, W].
            targets: by name, likewise.
            ema_output: of the EMA weights, where :meth:`needs_ema` asks for it.
            step: the iteration, from 1.
            share: of the samples of the batch that are here: the means are weighted by it.
        """
        found: dict[str, Tensor] = {}
        for term in self.terms:
            factor = term.factor(step)
            if factor == 0:
                found.update({name: output.new_zeros((), dtype=torch.float32) for name in term.weights})
                continue
            factor *= share if term.reduction == "mean" else self.ranks
            values = term.values(output, targets[term.target], ema_output)
            found.update({name: value if factor == 1 else value * factor for name, value in values.items()})
        return found


def schedule_text(options: ScheduledOptions) -> str:
    """The points of a loss's schedule, to follow its weight in a line; nothing where there are none."""
    points = [f"{factor:g} at {step:,}" for step, factor in options.weight_schedule or ()]
    return f" times {', '.join(points)}" if points else ""


def total_of(terms: Mapping[str, Tensor], output: Tensor) -> Tensor:
    """The sum of losses, from which gradients reach ``output`` even where none of them acts."""
    total = sum(terms.values(), output.new_zeros(()))
    return total if total.requires_grad else total + 0 * output.sum()


def with_sharpened(batch: Batch) -> Batch:
    """The batch with the target "gt_usm", the sharpened ground truth, of the same precision and memory layout."""
    gt = batch.gt
    layout = torch.channels_last if gt.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    sharp = usm_sharpen(gt.contiguous()).contiguous(memory_format=layout)
    return replace(batch, targets={**batch.targets, "gt_usm": sharp})


def _terms(options: TrainOptions, device: torch.device) -> Iterator[Term]:
    train = options.train
    pixels, features = options.target_of("l1"), options.target_of("percep")
    for name, pair in (("pix", train.pixel_opt), ("wave", train.wave_opt), ("fft", train.fft_opt)):
        if pair is not None:
            yield PairTerm(name=name, options=pair, target=pixels, loss=pair.build(device))
    if train.ldl_opt is not None:
        ldl = train.ldl_opt
        yield MappedTerm(name="ldl", options=ldl, loss=ldl.build(device), detach=ldl.detach_map)
    if train.perceptual_opt is not None:
        own, logged = train.perceptual_opt, {"percep": "percep", "style": "style"}
        yield FeatureTerm(name="percep", options=own, target=features, loss=own.build(device), logged=logged)
    if train.mesa_opt is not None:
        first = int(train.mesa_opt.start_ratio * train.total_iter)
        yield EmaTerm(name="mesa", options=train.mesa_opt, first=first, loss=train.mesa_opt.build(device))
    for named in train.losses:
        name = str(named.name)
        if isinstance(named, PerceptualLossOptions):
            logged = {"percep": name, "style": f"{name}_style"}
            yield FeatureTerm(name=name, options=named, target=named.target, loss=named.build(device), logged=logged)
        elif isinstance(named, LossOptions):
            yield PairTerm(name=name, options=named, target=named.target, loss=named.build(device))
