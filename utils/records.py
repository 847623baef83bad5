"""The records of a training run in ``metrics.jsonl``, read although some of its lines may be damaged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.reading import read_regular

_RATES_OF = "lr_"
"""What the learning rates of players beside the generator begin with; as "lr", they are lists."""


@dataclass(frozen=True)
class Records:
    """What a file holds.

    Attributes:
        lines: each record as it is written, and as it is read.
        dropped: numbers of the lines that are no records, but for a last one that was cut off by a kill.
    """

    lines: tuple[tuple[str, Mapping[str, Any]], ...]
    dropped: tuple[int, ...]


def read_records(path: Path) -> Records:
    """Read a file line by line; bytes that are no UTF-8, no JSON or no record cost their own line alone.

    Raises:
        InputError: it cannot be read, or is no regular file.
    """
    lines, dropped = [], []
    try:
        written = read_regular(path).split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: the records of a run cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(written, 1):
        record = _record(line)
        if record is not None:
            lines.append((line.decode(), record))
        elif line.strip() and (number < len(written) or _parsed(line) is not None):
            dropped.append(number)
    return Records(tuple(lines), tuple(dropped))


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError):
        return None


def is_record(value: Any) -> bool:
    """Whether a value is a record of an iteration (kind ``train``) or of a validation (kind ``val``)."""
    if not isinstance(value, dict) or not _is_whole(value.get("step")):
        return False
    if value.get("kind") == "train":
        rates = [value.get("lr"), *(value[key] for key in value if key.startswith(_RATES_OF))]
        sound = all(isinstance(own, list) and len(own) > 0 and all(map(_is_figure, own)) for own in rates)
        return sound and all(_is_figure(value[key]) for key in _figures(value))
    scores = value.get("scores")
    if value.get("kind") == "val" and isinstance(value.get("dataset"), str) and isinstance(scores, dict):
        return all(map(_is_figure, scores.values()))
    return False


def _record(line: bytes) -> Mapping[str, Any] | None:
    record = _parsed(line)
    return record if is_record(record) else None


def _figures(record: Mapping[str, Any]) -> Sequence[str]:
    """The keys of a training record that hold one figure each, or null."""
    return [key for key in record if key not in ("kind", "step", "lr") and not key.startswith(_RATES_OF)]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_figure(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
