"""The records of a training run in ``metrics.jsonl``, read although some of its lines may be damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.reading import open_regular

_RATES_OF = "lr_"
"""What the learning rates of players beside the generator begin with; as "lr", they are lists."""
_LARGEST = 2**63  # of whole numbers: what arrays hold


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
    """Read a file as a whole; errors as :func:`each_record`."""
    lines, dropped = [], []
    for number, line, record in each_record(path):
        if record is None:
            dropped.append(number)
        else:
            lines.append((line.decode(), record))
    return Records(tuple(lines), tuple(dropped))


def each_record(path: Path) -> Iterator[tuple[int, bytes, Mapping[str, Any] | None]]:
    """Read a file line by line; bytes that are no UTF-8, no JSON or no record cost their own line alone.

    Yields:
        The number of a line from 1, the line without its end, and the record; None where the line is none. Empty lines
        are passed over, and a last one that was cut off by a kill.

    Raises:
        InputError: the file cannot be read, or is no regular file.
    """
    try:
        with open_regular(path) as file:
            for number, line in enumerate(file, 1):
                record = _record(line)
                if record is not None or (line.strip() and (line.endswith(b"\n") or _parsed(line) is not None)):
                    yield number, line.removesuffix(b"\n"), record
    except OSError as error:
        raise InputError(f"{path}: the records of a run cannot be read: {error.strerror or error}") from error


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
    return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value < _LARGEST


def _is_figure(value: Any) -> bool:
    return value is None or isinstance(value, float) or _is_whole(value)
