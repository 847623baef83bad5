"""What must hold between the losses of a training file, its discriminator, and the kind of its model."""

from __future__ import annotations

from config.document import Document
from config.schema import ADVERSARIAL_MODELS, MODEL_TYPES, REAL_ADVERSARIAL_MODELS
from config.training_checks import value_of
from utils.scalars import is_null
from utils.typed import KeyPath, Report

_LOSSES = ("pixel_opt", "wave_opt", "fft_opt", "perceptual_opt", "losses")
_OF_DISCRIMINATORS: tuple[KeyPath, ...] = (
    ("train", "optim_d"),
    ("train", "net_d_iters"),
    ("train", "net_d_init_iters"),
    ("train", "grad_clip_d"),
    ("path", "pretrain_network_d"),
    ("path", "param_key_d"),
    ("path", "strict_load_d"),
)
_TARGETS = ("l1_gt_usm", "percep_gt_usm", "gan_gt_usm")


def check_losses(document: Document, report: Report) -> None:
    """Report losses, discriminators and kinds of models that do not go together."""
    model = value_of(document, ("model_type",), str, "")
    if model not in MODEL_TYPES:
        return
    if model not in REAL_ADVERSARIAL_MODELS:
        for key in _TARGETS:
            if not is_null(document.get((key,))):
                report.note((key,), f"has no effect here: it is for {' and '.join(REAL_ADVERSARIAL_MODELS)}")
    if model in ADVERSARIAL_MODELS:
        _check_adversarial(document, model, report)
    else:
        _check_pixel(document, model, report)


def _check_pixel(document: Document, model: str, report: Report) -> None:
    for path in _OF_DISCRIMINATORS:
        if not is_null(document.get(path)):
            report.note(path, f"has no effect here: {model} trains no discriminator")
    if isinstance(document.get(("train",)), dict) and not any(
        not is_null(document.get(("train", key))) for key in _LOSSES
    ):
        report.problem(("train",), 'the key "pixel_opt" is missing, and there is no other loss; expected one')


def _check_adversarial(document: Document, model: str, report: Report) -> None:
    for path in (("network_d",), ("train", "optim_d"), ("train", "gan_opt")):
        if is_null(document.get(path)):
            where: KeyPath = path[:-1]
            report.problem(where, f'the key "{path[-1]}" is missing; {model} trains a discriminator')
    if model in REAL_ADVERSARIAL_MODELS:
        for key in _TARGETS:
            if is_null(document.get((key,))):
                report.problem((), f'the key "{key}" is missing; expected true or false for {model}')
