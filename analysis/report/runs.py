"""The folder of a training run or of a test, read as far as it can be; what cannot is said in the notes of the run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from analysis.report.curves import RECORDS, RunCurves, read_curves
from analysis.report.model import Difference, Run
from config import Options, read
from config.bases import load
from utils.errors import InputError
from utils.reading import is_regular, open_regular, read_text
from utils.wording import first_few, first_line, shortened

SCORES = "scores.json"
VALIDATION = "validation.json"
_OPTIONS = "options_as_read.yml"
_HARDWARE = ("cpu", "cores", "threads", "gpus")  # of the facts at the head of that file; the others are versions
_MOST_SCORES = 256 * 2**20  # bytes
_LOG_END = 2**16  # bytes of a log that are looked at
_LOG_LINES = 3
_LOGGED = re.compile(r"^[-\d]+ [:,\d]+ (ERROR|WARNING|CRITICAL): (.*)$", re.MULTILINE)
_NAMED = 4


@dataclass(frozen=True)
class RunFiles:
    """What the folder of a run holds.

    Attributes:
        run: as the page shows it.
        path: the folder.
        options: read with today's checks; None where that fails.
        curves: of a training run; None where there are no records.
        scores: the content of ``scores.json`` of a test, or of ``validation.json`` of a training run, which holds its
            last validation; empty where it cannot be read.
    """

    run: Run
    path: Path
    options: Options | None
    curves: RunCurves | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Notes:
    """Notes to be added to those of runs, by the names of the runs; each is said once."""

    found: dict[str, dict[str, None]] = field(default_factory=dict)

    def add(self, run: str, note: str) -> None:
        """Add a note."""
        self.found.setdefault(run, {})[note] = None

    def to(self, run: Run) -> Run:
        """The run with its notes."""
        return replace(run, notes=(*run.notes, *self.found.get(run.name, ())))


def kind_of(folder: Path) -> Literal["train", "test"] | None:
    """Whether a folder is that of a training run or of a test; None: of neither."""
    if is_regular(folder / SCORES):
        return "test"
    return "train" if is_regular(folder / RECORDS) else None


def read_run(folder: Path) -> RunFiles:
    """Read a run.

    Raises:
        InputError: there is no such folder, or it is not that of a run; or there is nothing to show.
    """
    kind = kind_of(folder)
    if kind is None:
        raise InputError(_no_run(folder))
    notes: list[str] = []
    texts, options = _options(folder, kind, notes)
    versions, hardware = _facts(folder / _OPTIONS)
    curves: RunCurves | None = None
    scores: Mapping[str, Any] = {}
    if kind == "train":
        curves = _curves(folder, notes)
        if is_regular(folder / VALIDATION):
            scores = _scores(folder / VALIDATION, notes)
            notes += _faults(scores)
    else:
        scores = _scores(folder / SCORES, notes)
        texts = texts or flattened(mapping_of(scores.get("options")))
        versions = _texts(scores.get("versions")) or versions
        hardware = _texts(scores.get("hardware")) or hardware
        notes += _about_test(scores)
    notes += _logged(folder, kind)
    total = texts.get("train.total_iter", "") if kind == "train" else ""
    run = Run(
        name=folder.resolve().name, folder=str(folder), kind=kind, options=texts, versions=versions,
        hardware=hardware, command=_command(folder), iteration=None if curves is None else curves.last,
        total_iter=int(total) if total.isdecimal() else None, notes=tuple(notes),
    )  # fmt: skip
    return RunFiles(run, folder, options, curves, scores)


def _no_run(folder: Path) -> str:
    """Why a folder is not that of a run, and what to name instead."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        return f"{folder} {what}; name the folder of a run: experiments/NAME or results/NAME"
    if is_regular(folder / _OPTIONS):
        return f"{folder} holds neither {RECORDS} nor {SCORES}: the run has not logged or scored anything yet"
    inner = [place.name for place in listed(folder) if kind_of(place) is not None]
    hint = f"; its sub-folders do ({first_few(inner, _NAMED)}): name one of them" if inner else ""
    sought = f"{RECORDS} of a training run, {SCORES} of a test, results of scripts/analyse.py"
    return f"{folder} holds none of these: {sought}{hint}"


def listed(folder: Path) -> list[Path]:
    """What a folder holds, by name; nothing where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _options(folder: Path, kind: str, notes: list[str]) -> tuple[dict[str, str], Options | None]:
    """The options as texts, and as today's program reads them, which need not succeed."""
    file = folder / _OPTIONS
    if not is_regular(file):
        notes.append(f"{_OPTIONS} is missing: the options of the run are not known")
        return {}, None
    try:
        texts = flattened(load(file).value)
    except InputError as error:
        notes.append(f"{_OPTIONS}: {first_line(error)}")
        return {}, None
    try:
        return texts, read(file, mode="train") if kind == "train" else read(file, mode="test")
    except InputError as error:
        notes.append(f"the options are not accepted any more, so that HR and LR are not found: {first_line(error)}")
        return texts, None


def flattened(value: object, key: str = "") -> dict[str, str]:
    """Nested options as ``a.b.c`` -> text; lists become one text."""
    if isinstance(value, Mapping):
        found: dict[str, str] = {}
        for name, inner in value.items():
            found |= flattened(inner, f"{key}.{name}" if key else str(name))
        return found
    return {key: option_text(value)}


def option_text(value: object) -> str:
    """A value of an option as an option file has it, on one line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(option_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {option_text(inner)}' for name, inner in value.items())}}}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def _facts(file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Versions and hardware, which are comments at the head of the options."""
    versions: dict[str, str] = {}
    hardware: dict[str, str] = {}
    for line in _head(file):
        name, colon, value = line.removeprefix("# ").partition(": ")
        if not line.startswith("# ") or not colon:
            break
        (hardware if name in _HARDWARE else versions)[name] = value
    return versions, hardware


def _head(file: Path, lines: int = 30) -> list[str]:
    """The first lines of a text file; none where it cannot be read."""
    try:
        with open_regular(file) as opened:
            return [opened.readline(4096).decode(errors="replace").rstrip("\n") for _ in range(lines)]
    except OSError:
        return []


def _command(folder: Path) -> str | None:
    """What was typed, from the head of the copy of the option file; of several copies, from the newest."""
    found = []
    for file in folder.glob("*.y*ml"):
        head = _head(file, 4)
        if file.name != _OPTIONS and head[:1] and head[0].startswith("# GENERATE TIME") and head[1] == "# CMD:":
            found.append((file.stat().st_mtime, f"python {head[2].removeprefix('# ')}"))
    return max(found)[1] if found else None


def _curves(folder: Path, notes: list[str]) -> RunCurves | None:
    try:
        curves = read_curves(folder)
    except InputError as error:
        notes.append(str(error))
        return None
    if curves.dropped:
        count = "1 damaged line is" if len(curves.dropped) == 1 else f"{len(curves.dropped):,} damaged lines are"
        notes.append(f"{RECORDS}: {count} left out: line {first_few(curves.dropped, _NAMED)}")
    gaps = {title: int(np.isnan(points.values).sum()) for title, points in curves.curves.items()}
    notes += [f"{title}: {count:,} values are missing or not finite" for title, count in gaps.items() if count]
    return curves


def _scores(file: Path, notes: list[str]) -> Mapping[str, Any]:
    try:
        found = json.loads(read_text(file, "file of scores", _MOST_SCORES))
    except InputError as error:
        notes.append(str(error))
        return {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("datasets"), dict):
        notes.append(f"{file.name} is damaged: there are no scores of images to show")
        return {}
    return found


def _about_test(scores: Mapping[str, Any]) -> Iterator[str]:
    """What is to be known about scores."""
    if not scores:
        return
    if scores.get("complete") is False:
        yield "the test was ended early: data sets or pictures are missing"
    entry = f", entry {scores['weights_entry']}" if scores.get("weights_entry") else ""
    yield f"weights: {scores.get('weights', 'not known')}{entry}; {scores.get('way', 'way of testing not known')}"
    yield from _faults(scores)


def _faults(scores: Mapping[str, Any]) -> Iterator[str]:
    """A note for each data set of which images have no score."""
    for name, dataset in mapping_of(scores.get("datasets")).items():
        images = images_of(dataset)
        faults = [image for image in images if image.get("fault")]
        if faults:
            named = first_few((str(image.get("name")) for image in faults), _NAMED)
            yield f"{len(faults)} of {len(images)} images of {name} have no score ({named}): {faults[0]['fault']}"


def _logged(folder: Path, kind: str) -> list[str]:
    """Errors and warnings at the end of the newest log."""
    logs = [file for file in folder.glob(f"{kind}_*.log") if is_regular(file)]
    if not logs:
        return []
    newest = max(logs, key=lambda file: (file.stat().st_mtime, file.name))
    try:
        with open_regular(newest) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_END))
            end = file.read().decode(errors="replace")
    except OSError as error:
        return [f"{newest.name} cannot be read: {error.strerror or error}"]
    lines = [f"{newest.name}: {level.lower()}: {shortened(text)}" for level, text in _LOGGED.findall(end)]
    return list(dict.fromkeys(lines))[-_LOG_LINES:]


def images_of(dataset: Any) -> list[Mapping[str, Any]]:
    """The images of a data set in ``scores.json``; those that are none are left out."""
    images = mapping_of(dataset).get("images")
    return [image for image in images if mapping_of(image)] if isinstance(images, list) else []


def mapping_of(value: Any) -> Mapping[str, Any]:
    """A part of a JSON file that should be an object; empty where it is something else."""
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(text) for key, text in mapping_of(value).items()}


def differences(runs: Sequence[Run]) -> tuple[Difference, ...]:
    """Options that are not the same in all training runs, or in all tests; names differ anyway, and are left out."""
    keys: dict[str, None] = {}
    for kind in ("train", "test"):
        options = [run.options for run in runs if run.kind == kind and run.options]
        for key in dict.fromkeys(key for own in options for key in own):
            if key != "name" and len({own.get(key) for own in options}) > 1:
                keys[key] = None
    return tuple(Difference(key, tuple(run.options.get(key) for run in runs)) for key in keys)


def with_own_names(runs: Sequence[RunFiles]) -> list[RunFiles]:
    """The runs, those of the same name with a number, or with "test" beside a training of the same name."""
    named: list[RunFiles] = []
    taken: set[str] = set()
    for files in runs:
        base = files.run.name
        if base in taken and files.run.kind == "test":
            base = f"{base} (test)"
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base} ({number})"
        taken.add(name)
        named.append(replace(files, run=replace(files.run, name=name)))
    return named
