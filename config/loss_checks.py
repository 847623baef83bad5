"""What must hold between the losses of a training file, its discriminator, and the kind of its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from archs import build_discriminator
from archs.contract import Discriminator
from config.document import Document
from config.network import read_discriminator
from config.optimizers import OPTIMIZERS
from config.schema import ADVERSARIAL_MODELS, MODEL_TYPES, PIXEL_MODELS, REAL_ADVERSARIAL_MODELS, RELATIVISTIC_MODELS
from config.terms import LOG_NAMES, AnyNamed, AnyPerceptual, log_name
from config.training_checks import value_of
from losses import PERCEPTUAL, PerceptualLossOptions, acts_from
from utils.errors import InputError
from utils.scalars import is_null
from utils.typed import INVALID, KeyPath, Report, key_text, read

_STYLE = "style"  # the second term of a perceptual loss
_TARGETS = ("l1_gt_usm", "percep_gt_usm", "gan_gt_usm")
_SHARPEN = {"gt_usm": True, "lq_usm": False}  # what the Real GAN models do not do
_SETTINGS_OF_DISCRIMINATORS: tuple[KeyPath, ...] = (
    *(("train", key) for key in ("optim_d", "net_d_iters", "net_d_init_iters", "grad_clip_d")),
    *(("path", key) for key in ("pretrain_network_d", "param_key_d", "strict_load_d")),
)
_FOR_ADVERSARIAL: tuple[KeyPath, ...] = (("network_d",), ("train", "gan_opt"), ("train", "ldl_opt"))


class _Loss(NamedTuple):
    """A loss of a file: where it stands, what it is called, and what it says."""

    path: KeyPath
    name: str
    section: Mapping[str, Any]


def check_losses(document: Document, report: Report) -> None:
    """Report losses, discriminators and kinds of models that do not go together."""
    model = value_of(document, ("model_type",), str, "")
    if model not in MODEL_TYPES:
        return
    if model in PIXEL_MODELS:
        _check_pixel(document, model, report)
    else:
        _check_adversarial(document, model, report)
    _check_sharpening(document, model, report)
    _check_each(document, report)
    _check_ema(document, report)
    if not is_null(document.get(("train", "gradient_clip"))) and not is_null(document.get(("train", "grad_clip"))):
        report.problem(("train", "gradient_clip"), "grad_clip says how gradients are clipped too; choose one of them")
    _check_reset(document, report)


def note_discriminator_in_tests(document: Document, report: Report) -> None:
    """Note what a test file says about a discriminator's weights."""
    for path in _SETTINGS_OF_DISCRIMINATORS:
        if path[0] == "path" and not is_null(document.get(path)):
            report.note(path, "has no effect here: testing needs no discriminator")


def _check_pixel(document: Document, model: str, report: Report) -> None:
    for path in _SETTINGS_OF_DISCRIMINATORS:
        if not is_null(document.get(path)):
            report.note(path, f"has no effect here: {model} trains no discriminator")
    for path in _FOR_ADVERSARIAL:
        if not is_null(document.get(path)):
            problem = f"{model} trains no discriminator; leave the key out, or choose another model_type"
            report.problem(path, f"{problem}: {', '.join(ADVERSARIAL_MODELS)}")
    if isinstance(document.get(("train",)), Mapping) and not list(_losses(document)):
        report.problem(("train",), 'the key "pixel_opt" is missing, and there is no other loss; expected one')


def _check_adversarial(document: Document, model: str, report: Report) -> None:
    has_section = isinstance(document.get(("train",)), Mapping)
    for path, what in (
        (("network_d",), "the discriminator, as in {type: UNetDiscriminatorSN, num_in_ch: 3}"),
        (("train", "optim_d"), "its optimiser, as optim_g"),
        (("train", "gan_opt"), "its loss, as in {type: GANLoss, gan_type: vanilla, loss_weight: 0.1}"),
    ):
        if is_null(document.get(path)) and (has_section or len(path) == 1):
            report.problem(path[:-1], f'the key "{path[-1]}" is missing; {model} needs {what}')
    kind: KeyPath = ("train", "gan_opt", "gan_type")
    if model in RELATIVISTIC_MODELS and value_of(document, kind, str) == "hinge":
        problem = f"{model} asks the generator's loss about fake images too, which hinge leaves out; choose vanilla"
        report.problem(kind, problem)
    if model in RELATIVISTIC_MODELS and value_of(document, ("train", "accumulate"), int, 1) > 1:
        problem = f"{model} compares each image with the mean of the whole batch, which micro-batches do not know"
        advice = "leave the key out, or save memory by checkpoint_activations or amp"
        report.problem(("train", "accumulate"), f"{problem}; {advice}")
    _check_turns(document, report)
    _check_discriminator(document, report)


def _check_turns(document: Document, report: Report) -> None:
    """The iterations in which the generator is trained."""
    total = value_of(document, ("train", "total_iter"), int)
    every = value_of(document, ("train", "net_d_iters"), int, 1)
    first = value_of(document, ("train", "net_d_init_iters"), int, 0)
    if total is None or every < 1:
        return
    if total // every <= first // every:
        key = "net_d_init_iters" if first >= total else "net_d_iters"
        report.note(("train", key), f"network_g is never trained: total_iter is {total:,}")


def _check_discriminator(document: Document, report: Report) -> None:
    """The discriminator has to take the patches that are trained on."""
    found = Report()
    options = read_discriminator(document, found)
    if found.problems or not isinstance(document.get(("network_d",)), Mapping):
        return
    try:
        with torch.device("meta"):
            network = build_discriminator(options.as_mapping())
    except InputError as error:
        report.problem(("network_d",), str(error).removeprefix("network_d "))
        return
    if not isinstance(network, Discriminator):
        return
    channels = _channels(document)
    if network.channels != channels:
        problem = f"expected {channels}, as many channels as the images have, got {network.channels}"
        report.problem(("network_d", "num_in_ch"), problem)
    path, size = patch_size(document)
    problem_of_size = None if size is None else network.check_size(size, size)
    if problem_of_size is not None:
        report.problem(path, f"the discriminator cannot take these patches: {problem_of_size}")


def patch_size(document: Document) -> tuple[KeyPath, int | None]:
    """The key that says how large high-resolution patches are, and how large."""
    own, above = (value_of(document, path, int) for path in (("datasets", "train", "gt_size"), ("gt_size",)))
    if above is not None and document.get(("datasets", "train", "type")) == "RealESRGANDataset":
        return ("gt_size",), above
    return ("datasets", "train", "gt_size"), own


def _channels(document: Document) -> int:
    return 1 if value_of(document, ("datasets", "train", "color"), str) == "y" else 3


def _check_sharpening(document: Document, model: str, report: Report) -> None:
    names = " and ".join(REAL_ADVERSARIAL_MODELS)
    if model not in REAL_ADVERSARIAL_MODELS:
        for key in _TARGETS:
            if not is_null(document.get((key,))):
                report.note((key,), f"has no effect here: it is for {names}")
        return
    missing = [key for key in _TARGETS if is_null(document.get((key,)))]
    if missing:
        keys = f"the key{'s' if len(missing) > 1 else ''} {', '.join(missing)} {'are' if len(missing) > 1 else 'is'}"
        meaning = "true or false: whether the target of these losses is sharpened"
        report.problem((), f"{keys} missing; {model} expects {meaning}")
    for key, otherwise in _SHARPEN.items():
        if value_of(document, (key,), bool) is otherwise:
            meaning = f"{model} degrades sharpened images, and {', '.join(_TARGETS)} say which targets are"
            report.note((key,), f"has no effect here: {meaning}")


def _losses(document: Document) -> Iterator[_Loss]:
    """The losses of the generator."""
    for key, name in LOG_NAMES.items():
        section = document.get(("train", key))
        if isinstance(section, Mapping):
            yield _Loss(("train", key), name, section)
    listed = document.get(("train", "losses"))
    for index, section in enumerate(listed if isinstance(listed, list | tuple) else ()):
        if isinstance(section, Mapping):
            own = section.get("name")
            name = log_name(str(section.get("type", ""))) if is_null(own) else str(own)
            yield _Loss(("train", "losses", index), name, section)


def _check_each(document: Document, report: Report) -> None:
    """Reductions to one number, schedules that begin in time, names that occur once, images that VGG takes."""
    first: dict[str, KeyPath] = {}
    total = value_of(document, ("train", "total_iter"), int)
    for loss in _losses(document):
        if loss.section.get("reduction") == "none":
            report.problem((*loss.path, "reduction"), "expected mean or sum to train with, got none")
        points = read(loss.section.get("weight_schedule"), tuple[tuple[int, float], ...] | None, Report())
        begin = None if points is INVALID else acts_from(points)
        if total is not None and begin is not None and begin > total:
            note = f"the loss never acts: its factor is 0 up to iteration {begin - 1:,}, and total_iter is {total:,}"
            report.note((*loss.path, "weight_schedule"), note)
        perceptual = str(loss.section.get("type")) in PERCEPTUAL
        listed = loss.path[1] == "losses"
        style = [f"{loss.name}_{_STYLE}" if listed else _STYLE] if perceptual else []
        for name in (loss.name, *style):
            if name in first and listed:
                place = key_text(first[name])
                advice = f'is called "{name}" in logs, as {place} is; give it another "name"'
                report.problem((*loss.path, "name"), advice)
            first.setdefault(name, loss.path)
        if perceptual:
            _check_perceptual(document, loss, report)


def _check_perceptual(document: Document, loss: _Loss, report: Report) -> None:
    """The network that computes features takes images of three channels that are not too small."""
    options = read(loss.section, AnyNamed if loss.path[1] == "losses" else AnyPerceptual, Report())
    if not isinstance(options, PerceptualLossOptions):
        return
    if _channels(document) != 3:
        problem = f"{options.vgg_type} sees images of three channels, and datasets.train.color is y; leave it out"
        report.problem(loss.path, problem)
    path, size = patch_size(document)
    if size is not None and size < options.smallest:
        layers = ", ".join(options.layers)
        problem = f"expected at least {options.smallest} for {key_text(loss.path)}.layer_weights ({layers}), got {size}"
        report.problem(path, problem)
    if not options.mean_over_images and value_of(document, ("train", "accumulate"), int, 1) > 1:
        problem = "fro is the norm of the whole batch, which micro-batches (train.accumulate) do not know"
        report.problem((*loss.path, "criterion"), f"{problem}; choose l1 or l2")


def _check_reset(document: Document, report: Report) -> None:
    kind = value_of(document, ("train", "optim_g", "type"), str)
    if not is_null(document.get(("train", "reset_momentum_iter"))) and kind in set(OPTIMIZERS) - {"Adam", "AdamW"}:
        problem = f"{kind} keeps other moments; leave the key out, or choose Adam or AdamW as optim_g"
        report.problem(("train", "reset_momentum_iter"), problem)


def _check_ema(document: Document, report: Report) -> None:
    decay = value_of(document, ("train", "ema_decay"), float, 0.0)
    for key in ("ldl_opt", "mesa_opt"):
        if not is_null(document.get(("train", key))) and decay <= 0:
            report.problem(("train", key), "compares with the output of EMA weights; set ema_decay, as in 0.999")
