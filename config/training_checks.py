"""What of a training file cannot be meant, or hardly: schedules that end too early, come too late or lead nowhere.

A mistake is what no training can be meant by. What may be meant, as in a short trial of a long training, is a note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from config.document import Document
from config.schedulers import SCHEDULERS, CosineAnnealingLR, CosineAnnealingRestartLR, MultiStepLR
from config.schema import ADVERSARIAL_MODELS
from utils.scalars import is_null
from utils.typed import INVALID, KeyPath, Report, read
from utils.wording import first_few

_TRAIN: KeyPath = ("train",)
_SCHEDULER: KeyPath = ("train", "scheduler")
_FREQUENCIES: Mapping[KeyPath, str] = {
    ("val", "val_freq"): "there is no validation but the one at the end",
    ("logger", "print_freq"): "no iteration is logged",
    ("logger", "save_checkpoint_freq"): "there is no checkpoint but the one at the end",
}


def value_of(document: Document, path: KeyPath, annotation: Any, default: Any = None) -> Any:
    """The value of a key, or ``default`` where it is absent or wrong (which is reported elsewhere)."""
    raw = document.get(path)
    value = INVALID if raw is None else read(raw, annotation, Report())
    return default if value is INVALID else value


def check_training(document: Document, report: Report, *, debug: bool = False) -> None:
    """Report what of a training cannot be meant, and what may not be.

    Args:
        document: the training file.
        report: receives problems and notes.
        debug: a short trial run, which has frequencies of its own.
    """
    total = value_of(document, (*_TRAIN, "total_iter"), int)
    if total is not None:
        _check_ends(document, report, total)
        if not debug:
            _check_frequencies(document, report, total)
    _check_schedule(document, report, total)
    _check_batch(document, report)
    _check_kept(document, report)
    _check_metrics(document, report)


def _check_ends(document: Document, report: Report, total: int) -> None:
    warmup = value_of(document, (*_TRAIN, "warmup_iter"), int, -1)
    if warmup > total:
        report.note((*_TRAIN, "warmup_iter"), f"the training ends within the warm-up: total_iter is {total:,}")


def _check_frequencies(document: Document, report: Report, total: int) -> None:
    for path, what in _FREQUENCIES.items():
        frequency = value_of(document, path, int | None)
        if frequency is not None and frequency > total:
            report.note(path, f"{what}: it is beyond total_iter {total:,}")


def _check_schedule(document: Document, report: Report, total: int | None) -> None:
    kind = SCHEDULERS.get(value_of(document, (*_SCHEDULER, "type"), str, ""))
    if kind is MultiStepLR:
        for key in ("milestones", "restarts"):
            _check_iterations(document, report, key, total)
    if kind is CosineAnnealingRestartLR:
        periods = value_of(document, (*_SCHEDULER, "periods"), tuple[int, ...])
        if periods == ():
            report.problem((*_SCHEDULER, "periods"), "expected at least one cycle, got an empty list")
        elif periods and total is not None and sum(periods) > total:
            message = f"the last cycle is not finished: together {sum(periods):,} iterations, total_iter is {total:,}"
            report.note((*_SCHEDULER, "periods"), message)
    if kind is CosineAnnealingLR:
        period = value_of(document, (*_SCHEDULER, "T_max"), int)
        if period is not None and total is not None and period != total:
            what = "ends above eta_min" if period > total else "rises again after it"
            report.note((*_SCHEDULER, "T_max"), f"the learning rate {what}: total_iter is {total:,}")
    if kind in (CosineAnnealingRestartLR, CosineAnnealingLR):
        _check_minimum(document, report)


def _check_iterations(document: Document, report: Report, key: str, total: int | None) -> None:
    """Milestones or restarts: their order, those that are given twice, and those that are never reached."""
    path = (*_SCHEDULER, key)
    events: Sequence[int] = value_of(document, path, tuple[int, ...], ())
    if key == "restarts" and len(set(events)) < len(events):
        report.problem(path, f"expected each iteration once, got {first_few(events, 10)}")
    elif list(events) != sorted(events):
        report.note(path, f"not in ascending order; read as {first_few(sorted(events), 10)}")
    # One at total_iter is how published files say that there is none.
    late = [event for event in events if total is not None and event > total]
    if late:
        report.note(path, f"never reached: {first_few(sorted(late))}; total_iter is {total:,}")


def _check_minimum(document: Document, report: Report) -> None:
    least = value_of(document, (*_SCHEDULER, "eta_min"), float, 0.0)
    adversarial = value_of(document, ("model_type",), str) in ADVERSARIAL_MODELS
    for key in ("optim_g", "optim_d") if adversarial else ("optim_g",):
        rate = value_of(document, (*_TRAIN, key, "lr"), float)
        if rate is not None and least > rate:
            problem = f"expected at most the learning rate, train.{key}.lr {rate:g}, got {least:g}"
            report.problem((*_SCHEDULER, "eta_min"), problem)


def _check_batch(document: Document, report: Report) -> None:
    parts = value_of(document, (*_TRAIN, "accumulate"), int, 1)
    batch = value_of(document, ("datasets", "train", "batch_size_per_gpu"), int)
    if batch is not None and parts > batch >= 1:
        message = f"no more than {batch} micro-batches are made: datasets.train.batch_size_per_gpu is {batch}"
        report.note((*_TRAIN, "accumulate"), message)


def _check_kept(document: Document, report: Report) -> None:
    every = value_of(document, ("logger", "keep_every"), int | None)
    frequency = value_of(document, ("logger", "save_checkpoint_freq"), int, 5000)
    if every is None:
        return
    path: KeyPath = ("logger", "keep_every")
    if value_of(document, ("logger", "keep_last"), int | None) is None:
        report.note(path, "has no effect here: without keep_last, every checkpoint is kept")
    elif frequency >= 1 and every % frequency:
        message = f"no multiple of save_checkpoint_freq {frequency:,}: only checkpoints of multiples of both are kept"
        report.note(path, message)


def _check_metrics(document: Document, report: Report) -> None:
    val, datasets = document.get(("val",)), document.get(("datasets",))
    if not isinstance(val, Mapping) or not isinstance(datasets, Mapping):
        return
    held_out = [key for key, item in datasets.items() if key.split("_")[0] == "val" and not is_null(item)]
    metrics = val.get("metrics")
    empty = is_null(metrics) or (isinstance(metrics, Mapping) and all(map(is_null, metrics.values())))
    if held_out and empty and not value_of(document, ("val", "save_img"), bool, False):
        report.note(("val",), "nothing is measured and nothing is saved: there are no metrics, and save_img is false")
