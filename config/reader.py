"""From an option file and the command line to frozen options, or to one message that lists all mistakes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from config.bases import load
from config.checks import UNSUPPORTED_KEYS, Mode, check, check_kind
from config.document import Document, Mistake
from config.network import is_file, read_discriminator, read_network, scale_edits
from config.overrides import apply_overrides
from config.schema import PIXEL_MODELS, RUN_FOLDERS, Options, TestOptions, TrainOptions
from utils import devices
from utils.errors import InputError
from utils.scalars import is_null
from utils.suggest import near_miss
from utils.typed import KeyPath, Report, key_text
from utils.typed import read as read_typed
from utils.wording import shortened

DEBUG_FREQ = 8
_MOST_LINES, _LONGEST_LINE = 100, 2000  # of a message
# Beside optional mappings, for which null means absent everywhere.
_NULL_MEANS_ABSENT: tuple[KeyPath, ...] = (
    ("num_gpu",),
    ("manual_seed",),
    ("train",),
    ("path", "ignore_resume_networks"),
)

AnyOptions = TypeVar("AnyOptions", bound=Options)


@overload
def read(
    path: str | Path, overrides: Sequence[str] = (), *, mode: Literal["train"], debug: bool = False
) -> TrainOptions: ...
@overload
def read(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    mode: Literal["test"],
    debug: bool = False,
    scale: float | None = None,
) -> TestOptions: ...
def read(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    mode: Mode,
    debug: bool = False,
    scale: float | None = None,
) -> Options:
    """The options of a run.

    Args:
        path: YAML file with BasicSR's keys.
        overrides: edits as ``train:optim_g:lr=1e-4``, made in their order.
        mode: which kind of file is wanted.
        debug: a short trial run: the name gets the prefix ``debug_``.
        scale: a factor that takes the place of the file's and of its network's.

    Raises:
        InputError: the file cannot be read or used; the message lists every mistake as ``file:line: key: what``.
    """
    kind: type[TrainOptions] | type[TestOptions] = TrainOptions if mode == "train" else TestOptions
    return interpret(load(path), kind, overrides, debug=debug, scale=scale)


def interpret(
    document: Document,
    kind: type[AnyOptions],
    overrides: Sequence[str] = (),
    *,
    debug: bool = False,
    scale: float | None = None,
) -> AnyOptions:
    """The options that a document holds; :func:`read` says what the arguments mean.

    Raises:
        InputError: see :func:`read`.
    """
    mode: Mode = "train" if issubclass(kind, TrainOptions) else "test"
    if scale is not None:
        document = apply_overrides(document, scale_edits(document, scale))
    document = apply_overrides(document, overrides)
    check_kind(document, mode)
    report = Report()
    options = _read_document(document, kind, report)
    name = getattr(options, "name", "")  # after a problem there may be none
    check(document, mode, report, debug=debug or "debug" in name)
    _raise_mistakes(document, report)
    options = _in_order(_debugged(options, debug))
    return dataclasses.replace(options, notes=_notes(document, report), files=document.files)


def only_sets(options: TestOptions, names: Sequence[str]) -> TestOptions:
    """The options with some of their data sets.

    Args:
        options: of a test file.
        names: what the sets are called (their ``name``, in any case of letters); none: all stay.

    Raises:
        InputError: there is no set of a name.
    """
    known = {dataset.name.lower(): dataset.name for dataset in options.datasets.values()}
    absent = [name for name in names if name.lower() not in known]
    if absent:
        listed = f"; {options.files[0] if options.files else 'the file'} has {', '.join(known.values())}"
        missing = " and ".join(f'"{name}"{near_miss(name, known.values())}' for name in absent)
        raise InputError(f"--sets: there is no data set {missing}{listed}")
    wanted = {name.lower() for name in names} or set(known)
    kept = {key: dataset for key, dataset in options.datasets.items() if dataset.name.lower() in wanted}
    return dataclasses.replace(options, datasets=kept)


def _notes(document: Document, report: Report) -> tuple[str, ...]:
    """The remarks of a report, one line each; keys of a file about which the same is to be said share a line."""
    together: dict[tuple[str, str], list[Mistake]] = {}
    for note in dict.fromkeys(report.notes):
        mistake = document.mistake(*note)
        # An edit names its key itself.
        source = str(mistake.place) if mistake.place.names else mistake.place.source
        together.setdefault((source, mistake.message), []).append(mistake)
    lines = []
    for (_, message), mistakes in together.items():
        keys = ", ".join(key_text(mistake.path) for mistake in mistakes)
        lines.append(str(mistakes[0]) if len(mistakes) == 1 else f"{mistakes[0].place}: {keys}: {message}")
    return tuple(lines)


def _read_document(document: Document, kind: type[AnyOptions], report: Report) -> AnyOptions:
    """The document as options; after a problem, what is returned is not to be used."""
    mapping = _without(document.value, UNSUPPORTED_KEYS)
    mapping = _without(mapping, [path for path in _NULL_MEANS_ABSENT if is_null(document.get(path))])
    if str(mapping.get("model_type")) in PIXEL_MODELS:
        mapping = _without(mapping, [("train", "optim_d")])  # without effect, whatever it says
    if is_file(document):
        mapping = _without(mapping, [("path", "pretrain_network_g")])  # without effect, too
    if isinstance(mapping.get("path"), Mapping):
        mapping["path"] = _outside_the_run(mapping["path"], mapping.get("name"), report)
    filled = {
        **mapping,
        "num_gpu": _gpu_count(mapping.get("num_gpu")),
        "manual_seed": _seed(mapping.get("manual_seed")),
    }
    if "network_g" in mapping:
        filled["network_g"] = read_network(document, report)
    if kind is TrainOptions and not is_null(mapping.get("network_d")):
        filled["network_d"] = read_discriminator(document, report)
    options: AnyOptions = read_typed(filled, kind, report)
    return options


def _outside_the_run(path: Mapping[str, Any], name: Any, report: Report) -> dict[str, Any]:
    """The section ``path``, with the roots that BasicSR started from where it has put the run's own folder there."""
    result = dict(path)
    for key in ("experiments_root", "results_root"):
        root = result.get(key)
        if isinstance(root, str) and Path(root).name == name and any(folder in result for folder in RUN_FOLDERS):
            result[key] = str(Path(root).parent)
            report.note(("path", key), f"read as {result[key]}: it is the run's own folder, as BasicSR writes it")
    return result


def _without(mapping: Mapping[str, Any], paths: Iterable[KeyPath]) -> dict[str, Any]:
    """A copy of a nested mapping that lacks the given keys."""
    result = dict(mapping)
    for first, *rest in paths:
        key = str(first)
        if not rest:
            result.pop(key, None)
        elif isinstance(result.get(key), Mapping):
            result[key] = _without(result[key], [tuple(rest)])
    return result


def _gpu_count(value: Any) -> Any:
    return devices.present().count if value is None or value == "auto" else value


def _seed(value: Any) -> Any:
    # From the system's randomness: the state of `random` is not touched.
    return random.SystemRandom().randint(1, 10000) if value is None else value


def _raise_mistakes(document: Document, report: Report) -> None:
    """One InputError for all mistakes: line by line, then those of bases, then edits from the command line."""
    written = {mistake.path for mistake in document.mistakes}
    found = [
        document.mistake(*problem) for problem in report.problems if problem.path not in written or not problem.path
    ]
    mistakes: list[Mistake] = list(dict.fromkeys([*document.mistakes, *found]))
    if mistakes:
        mistakes.sort(key=lambda mistake: _order(mistake, document.source))
        lines = [shortened(str(mistake), _LONGEST_LINE) for mistake in mistakes[:_MOST_LINES]]
        more = len(mistakes) - len(lines)
        raise InputError("\n".join([*lines, *([f"and {more:,} more mistakes"] if more else [])]))


def _order(mistake: Mistake, source: str) -> tuple[bool, bool, str, int]:
    place = mistake.place
    return place.line == 0, place.source != source, place.source, place.line


def _debugged(options: AnyOptions, debug: bool) -> AnyOptions:
    """A name that holds "debug" makes a run that validates, logs and saves after a few iterations."""
    if debug and not options.name.startswith("debug"):
        options = dataclasses.replace(options, name=f"debug_{options.name}")
    if "debug" not in options.name:
        return options
    if options.val is not None:
        options = dataclasses.replace(options, val=dataclasses.replace(options.val, val_freq=DEBUG_FREQ))
    if isinstance(options, TrainOptions):
        logger = dataclasses.replace(options.logger, print_freq=1, save_checkpoint_freq=DEBUG_FREQ, use_tb_logger=False)
        options = dataclasses.replace(options, logger=logger)
    return options


def _in_order(options: AnyOptions) -> AnyOptions:
    """Data sets run in the string order of their keys, as in BasicSR; the training data comes first."""
    ordered = sorted(options.datasets.items(), key=lambda item: (item[0] != "train", item[0]))
    return dataclasses.replace(options, datasets=dict(ordered))
