"""What a training file moves, and by which losses, in lines for the log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from config.schema import Target, TrainOptions
from config.terms import LOG_NAMES, ArtefactTerm, MesaTerm, NamedTerm
from losses import GANLoss, LossOptions, PerceptualLossOptions, ScheduledOptions


class Planned(NamedTuple):
    """A loss of the generator.

    Attributes:
        name: what it is called in logs.
        what: the kind of loss.
        weight: its factor.
        options: what the file says of it.
        against: what the output is compared with.
    """

    name: str
    what: str
    weight: float
    options: ScheduledOptions
    against: str


def training_plan(options: TrainOptions) -> list[str]:
    """Optimisers and schedule, the losses of the generator by their log names, and whose turn it is when."""
    train = options.train
    moved = {"network_g": train.optim_g, **({} if train.optim_d is None else {"network_d": train.optim_d})}
    optimizers = ", ".join(f"{type(own).__name__} of {name} at {own.lr:g}" for name, own in moved.items())
    lines = [f"optimiser: {optimizers}; {type(train.scheduler).__name__}"]
    for loss in planned_losses(options):
        points = loss.options.weight_schedule
        schedule = "" if points is None else " times " + ", ".join(f"{factor:g} at {step:,}" for step, factor in points)
        lines.append(f"loss {loss.name}: {loss.what}, weight {loss.weight:g}{schedule}{loss.against}")
    if options.kind == "adversarial":
        judged = "compares outputs with" if options.relativistic else "tells outputs from"
        lines.append(f"network_d {judged} the {_image(options.target_of('gan'))}")
        turns = "every iteration" if train.net_d_iters == 1 else f"one of {train.net_d_iters:,}"
        late = f", from {train.net_d_init_iters + 1:,} on" if train.net_d_init_iters else ""
        lines.append(f"network_d is trained in every iteration, network_g in {turns}{late}")
    return lines


def planned_losses(options: TrainOptions) -> Iterator[Planned]:
    """The losses of the generator, in the order of the keys; a perceptual one may be two: features and style."""
    prefix = "l_g_" if options.kind == "adversarial" else "l_"
    for key, name in LOG_NAMES.items():
        loss = getattr(options.train, key)
        if isinstance(loss, PerceptualLossOptions):
            target = options.target_of("percep")
            yield from _features(loss, f"{prefix}{name}", f"{prefix}style", target)
        elif isinstance(loss, GANLoss):
            yield Planned(f"{prefix}{name}", f"GAN ({loss.gan_type})", loss.loss_weight, loss, "")
        elif isinstance(loss, LossOptions):
            against = _against(loss, options.target_of("l1"), options.train.total_iter)
            yield Planned(f"{prefix}{name}", type(loss).__name__, loss.loss_weight, loss, against)
    for named in options.train.losses:
        yield from _named(named, prefix)


def _named(loss: NamedTerm, prefix: str) -> Iterator[Planned]:
    """An entry of the list of losses."""
    name, target = f"{prefix}{loss.name}", loss.target
    if isinstance(loss, PerceptualLossOptions):
        yield from _features(loss, name, f"{name}_style", target)
    elif isinstance(loss, LossOptions):
        yield Planned(name, type(loss).__name__, loss.loss_weight, loss, f", against the {_image(target)}")


def _features(loss: PerceptualLossOptions, name: str, style: str, target: Target) -> Iterator[Planned]:
    layers = ", ".join(f"{layer} {factor:g}" for layer, factor in loss.layer_weights.items() if factor > 0)
    for called, what, weight in ((name, "features", loss.perceptual_weight), (style, "style", loss.style_weight)):
        if weight > 0:
            kind = f"{what} of {loss.vgg_type} ({layers}), {loss.criterion}"
            yield Planned(called, kind, weight, loss, f", against the {_image(target)}")


def _against(loss: LossOptions, target: Target, total: int) -> str:
    """What a loss compares the output with, as the end of a line."""
    if isinstance(loss, MesaTerm):
        return f", against the output of the EMA weights, from iteration {max(1, int(loss.start_ratio * total)):,} on"
    if isinstance(loss, ArtefactTerm):
        return f", where there are artefacts, against the {_image('gt')}"
    return f", against the {_image(target)}"


def _image(target: Target) -> str:
    return "sharpened ground truth" if target == "gt_usm" else "ground truth"
