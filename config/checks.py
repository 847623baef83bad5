"""What must hold between the keys of an option file, beyond the type of each.

The rules look at the document as written, each at the few values it is about, so that a mistake elsewhere in the file
does not hide them and every problem points at the line that causes it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

from config.any_scale_checks import ANY_SCALE, check_any_scale
from config.document import Document
from config.loss_checks import check_losses, note_discriminator_in_tests, patch_size
from config.network import check_file
from config.published import variants
from config.schedulers import SCHEDULERS, CosineAnnealingRestartLR, MultiStepLR
from config.schema import MODEL_TYPES
from config.training_checks import check_training, value_of
from data import DegradationOptions
from data.patches.options import gt_size_problem
from utils.errors import InputError
from utils.scalars import is_null
from utils.suggest import near_miss
from utils.typed import KeyPath, Report, key_text, read
from utils.wording import shortened

Mode = Literal["train", "test"]

_FILMS = "it works on sequences of frames; here networks see single images"
UNSUPPORTED_MODEL_TYPES = {
    **dict.fromkeys(("VideoBaseModel", "VideoRecurrentModel", "EDVRModel"), _FILMS),
    **dict.fromkeys(("VideoGANModel", "VideoRecurrentGANModel"), _FILMS),
}

# Keys of published files that change what is trained or measured: ignoring them would give other numbers silently.
UNSUPPORTED_KEYS: Mapping[KeyPath, str] = {
    ("train", "mixing_augs"): "mixing the images of a batch (mixup) is not supported",
    ("train", "use_grad_clip"): "it clips the gradient to a norm of 0.01, which is grad_clip: 0.01 here",
    ("path", "pretrain_model_g"): "early BasicSR's name of pretrain_network_g",
    ("use_amp",): 'mixed precision is asked for by "train: amp: fp16" (or bf16) here',
    ("use_ema",): 'choose the EMA weights by "path: param_key_g: params_ema"',
}

_NEEDED_IN_TRAINING = {
    "gt_size": "side of the high-resolution patches, pixels",
    "batch_size_per_gpu": "images per batch and rank",
}


_DEGRADED = "RealESRGANDataset"
_LONGEST_NAME = 200  # bytes of a name of 255, to which runs add the time and the iteration


def check_kind(document: Document, mode: Mode) -> None:
    """Refuse a recipe, a training file in testing, or the other way round, instead of listing all that does not fit."""
    if isinstance(document.get(("stages",)), Mapping) and not is_set(document.get(("network_g",))):
        advice = f"run it by python scripts/run_recipe.py {document.source}"
        raise InputError(str(document.mistake(("stages",), f"this is a recipe, a chain of trainings; {advice}")))
    names = list(_datasets(document))
    training = not is_null(document.get(("train",))) or "train" in names
    if mode == "test" and training:
        found: KeyPath = ("datasets", "train") if is_null(document.get(("train",))) else ("train",)
        advice = "run train.py with it, or test.py with a file that has test sets (datasets: test_1: ...)"
        raise InputError(str(document.mistake(found, f"this is a training file; {advice}")))
    if mode == "train" and names and not training and not near_miss("train", [*document.value, *names]):
        advice = 'run test.py with it, or train.py with a file that has "datasets: train:" and "train:"'
        raise InputError(str(document.mistake(("datasets",), f"this is a test file; {advice}")))


def check(document: Document, mode: Mode, report: Report, *, debug: bool = False) -> None:
    """Report everything in the document that contradicts something else in it."""
    _check_names(document, report)
    _check_model_type(document, report)
    _check_unsupported(document, report)
    _check_patches(document, report)
    _check_tiles(document, report)
    check_any_scale(document, report, training=mode == "train")
    check_file(document, report, training=mode == "train")
    if mode == "train":
        _check_training_data(document, report)
        _check_validation(document, report)
        _check_schedule(document, report)
        check_training(document, report, debug=debug)
        check_losses(document, report)
        if is_set(document.get(("published",))):
            report.note(("published",), "has no effect here: it is for test files")
    else:
        note_discriminator_in_tests(document, report)
        if isinstance(document.get(("datasets",)), Mapping) and not _datasets(document):
            report.problem(("datasets",), "expected at least one data set, as in 'test_1: ...'")
        variant = value_of(document, ("published",), str | None)
        if variant is not None and variant not in variants():
            guess = near_miss(variant, variants()) or f"; known: {', '.join(variants())}"
            report.problem(("published",), f'no scores of "{variant}" are known{guess}')


def _datasets(document: Document) -> Mapping[str, Any]:
    """The data sets that are not null; none where the section is absent or no mapping (which is reported elsewhere)."""
    datasets = document.get(("datasets",))
    return {name: item for name, item in datasets.items() if not is_null(item)} if isinstance(datasets, Mapping) else {}


def _check_names(document: Document, report: Report) -> None:
    """What becomes part of the names of folders and files; ``..`` would archive the folder above."""
    paths: list[KeyPath] = [("name",), ("val", "suffix"), *(("datasets", key, "name") for key in _datasets(document))]
    for path in paths:
        name = value_of(document, path, str | None)
        if name is not None and (not name.isprintable() or name in ("", ".", "..") or set(name) & set("/\\")):
            report.problem(path, f"expected a text that can be part of a file's name, got {shortened(repr(name))}")
        elif name is not None and len(os.fsencode(name)) > _LONGEST_NAME:
            problem = f"expected at most {_LONGEST_NAME} bytes, for the names of files, got {len(os.fsencode(name)):,}"
            report.problem(path, problem)


def _check_model_type(document: Document, report: Report) -> None:
    name = value_of(document, ("model_type",), str)
    known = ", ".join(MODEL_TYPES)
    if name in UNSUPPORTED_MODEL_TYPES:
        report.problem(("model_type",), f"{name} is not supported: {UNSUPPORTED_MODEL_TYPES[name]}; known: {known}")
    elif name is not None and name not in MODEL_TYPES:
        listed = f"; known: {known}; SRModel will do for most"
        report.problem(("model_type",), f'unknown model "{name}"{near_miss(name, MODEL_TYPES) or listed}')


def _check_unsupported(document: Document, report: Report) -> None:
    for path, reason in UNSUPPORTED_KEYS.items():
        if is_set(document.get(path)):
            report.problem(path, reason)


def is_set(value: Any) -> bool:
    """Whether a value says more than ``~`` or ``false``."""
    return value is not None and read(value, bool | None, Report()) not in (None, False)


def _check_patches(document: Document, report: Report) -> None:
    scale = value_of(document, ("scale",), int, 1)
    for path in (("gt_size",), *(("datasets", name, "gt_size") for name in _datasets(document))):
        size = value_of(document, path, int)
        problem = None if size is None or scale <= 0 else gt_size_problem(size, scale)
        if problem is not None:
            report.problem(path, problem)


def _check_tiles(document: Document, report: Report) -> None:
    """One way of cutting images at most."""
    ways: tuple[KeyPath, ...] = (("tile",), ("val", "use_chop"), ("val", "pft_chop"))
    chosen = [path for path in ways if is_set(document.get(path))]
    if len(chosen) > 1:
        names = " and ".join(key_text(path) for path in chosen)
        report.problem(chosen[-1], f"{names} each say how images are cut into tiles; choose one")


def _check_training_data(document: Document, report: Report) -> None:
    datasets = _datasets(document)
    for name in datasets:
        if name != "train" and name.split("_")[0] != "val":
            guess = near_miss(name, ("train", "val"))
            expected = f"a training file has the data sets train, val, val_2, ..., not {name}"
            report.problem(("datasets", name), f"{expected}{guess}")
    if document.get(("datasets", "train", "type")) == _DEGRADED:
        _check_degraded(document, report)
    else:
        _note_degradations(document, report)
    if "train" not in datasets and isinstance(document.get(("datasets",)), Mapping):
        report.problem(("datasets",), 'the key "train" is missing; expected the data to train on')
    elif isinstance(datasets.get("train"), Mapping):
        for key, meaning in _NEEDED_IN_TRAINING.items():
            absent = not is_set(datasets["train"].get(key))
            of_any_scale = datasets["train"].get("type") == ANY_SCALE  # whose patches have no one size
            if absent and (key != "gt_size" or not (of_any_scale or patch_size(document)[1])):
                report.problem(("datasets", "train"), f'the key "{key}" is missing; expected {meaning}')


def _check_degraded(document: Document, report: Report) -> None:
    """What degrades images on the device, and the keys about it at the top level."""
    if value_of(document, ("high_order_degradation",), bool, True) is False:
        advice = "choose datasets.train.type PairedImageDataset, or leave the key out"
        problem = f"false asks for pairs of images, but {_DEGRADED} degrades; {advice}"
        report.problem(("high_order_degradation",), problem)
    own = value_of(document, ("datasets", "train", "gt_size"), int)
    path, size = patch_size(document)
    if own is not None and size != own:
        report.note(path, f"counts, not datasets.train.gt_size {own}, as in BasicSR")
    queue = value_of(document, ("queue_size",), int, DegradationOptions().queue_size)
    batch = value_of(document, ("datasets", "train", "batch_size_per_gpu"), int)
    if batch is not None and batch >= 1 and queue % batch:
        given = document.get(("queue_size",)) is not None
        lower = max(queue - queue % batch, batch)
        problem = f"expected a multiple of batch_size_per_gpu {batch}, such as {lower}, or 0 for no pool, got {queue}"
        report.problem(("queue_size",), problem if given else f"{problem}, the default")


def _note_degradations(document: Document, report: Report) -> None:
    """The keys of degradation where the data set does not degrade."""
    for name in ("gt_size", *(field.name for field in dataclasses.fields(DegradationOptions))):
        asked_not_to = name == "high_order_degradation" and value_of(document, (name,), bool) is False
        if not is_null(document.get((name,))) and not asked_not_to:
            report.note((name,), f"has no effect here: it is for datasets.train.type {_DEGRADED}")


def _check_validation(document: Document, report: Report) -> None:
    has_data = any(name.split("_")[0] == "val" for name in _datasets(document))
    val = document.get(("val",))
    if isinstance(val, Mapping):
        if not is_set(val.get("val_freq")):
            report.problem(("val",), 'the key "val_freq" is missing; expected the iterations between validations')
        if not has_data:
            report.note(("val",), "has no effect here: there is no data set to validate on (datasets: val: ...)")
    elif has_data:
        report.note(("datasets",), 'there is no section "val": nothing will be validated')


def _check_schedule(document: Document, report: Report) -> None:
    path: KeyPath = ("train", "scheduler")
    kind = SCHEDULERS.get(value_of(document, (*path, "type"), str, ""))
    if kind is MultiStepLR:
        _check_lengths(document, report, path, "restarts", (0,))
    elif kind is CosineAnnealingRestartLR:
        _check_lengths(document, report, path, "periods", None)
        _check_periods(document, report, path)


def _check_lengths(
    document: Document, report: Report, path: KeyPath, key: str, default: tuple[int, ...] | None
) -> None:
    """As many weights as restarts or periods."""
    starts = value_of(document, (*path, key), tuple[int, ...], default)
    weights = value_of(document, (*path, "restart_weights"), tuple[float, ...], (1.0,))
    if starts is not None and len(starts) != len(weights):
        blamed = "restart_weights" if document.get((*path, "restart_weights")) is not None else key
        count = f"got {len(weights)} weights for {len(starts)} {key}"
        report.problem((*path, blamed), f"expected as many restart_weights as {key}, {count}")


def _check_periods(document: Document, report: Report, path: KeyPath) -> None:
    periods = value_of(document, (*path, "periods"), tuple[int, ...])
    total = value_of(document, ("train", "total_iter"), int)
    if periods and total is not None and sum(periods) < total - 1:
        problem = f"expected cycles that last until total_iter {total}, got {sum(periods)} iterations in all"
        report.problem((*path, "periods"), problem)
