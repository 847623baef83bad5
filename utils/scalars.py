"""Single values of option files: what ``1e-4``, ``yes`` or ``~`` means for a field of some type."""

from __future__ import annotations

import collections.abc
import os
import re
import types
from pathlib import Path
from typing import Any

_TRUE = {"true", "yes", "on"}
_FALSE = {"false", "no", "off"}
_NULL = {"", "~", "null", "none"}
_ODD = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_LONGEST_PATH, _LONGEST_NAME = 4095, 255  # bytes, on Linux; calls with longer ones fail in many ways
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*")


class PlainText(str):
    """An unquoted scalar of a YAML file, as written; what it means is up to the field that it is given to."""

    __slots__ = ()


def is_null(value: object) -> bool:
    """Whether a value is None, or an unquoted text that YAML takes for it."""
    return value is None or (isinstance(value, PlainText) and str(value).lower() in _NULL)


def plain_value(value: object) -> Any:
    """A value for which no type is known: YAML 1.1 reading, and ``2e-4`` is a number."""
    if isinstance(value, PlainText):
        text = str(value)
        lowered = text.lower()
        if is_null(value):
            return None
        if lowered in _TRUE | _FALSE:
            return lowered in _TRUE
        for convert in (_to_int, _to_float):
            try:
                return convert(text)
            except ValueError:
                continue
        return text
    if isinstance(value, collections.abc.Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    return value


def read_scalar(value: object, kind: Any, choices: tuple[Any, ...]) -> Any:
    """A single value as the kind wants it: bool, int, float, str, Path, None, or one of some choices.

    Raises:
        ValueError: it is not of that kind.
    """
    if choices:
        return _read_choice(value, choices)
    plain = isinstance(value, PlainText)
    if kind is types.NoneType:
        if is_null(value):
            return None
    elif kind is bool:
        if isinstance(value, bool):
            return value
        if plain and str(value).lower() in _TRUE | _FALSE:
            return str(value).lower() in _TRUE
    elif kind is int:
        return _read_int(value)
    elif kind is float:
        if plain:
            value = _to_float(str(value))
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value:  # NaN is no number
            return float(value)
    elif kind is str:
        if isinstance(value, str) and not (plain and str(value) in ("", "~")):
            return str(value)
    elif kind is Path:
        if isinstance(value, Path):
            return value
        if isinstance(value, str) and str(value) not in ("", "~"):
            return _to_path(str(value))
    raise ValueError


def _to_path(text: str) -> Path:
    """A path that a file can have; ``~`` is the home folder."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # ~name of a user whom this machine does not know
        raise ValueError from None
    encoded = os.fsencode(path)  # half of a character is a ValueError
    if b"\0" in encoded or len(encoded) > _LONGEST_PATH:
        raise ValueError
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
        raise ValueError
    return path


def _read_choice(value: object, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        try:
            if read_scalar(value, type(choice), ()) == choice:
                return choice
        except ValueError:
            continue
    raise ValueError


def _read_int(value: object) -> int:
    """Whole numbers; ``5e3`` and ``500000.0`` count, as BasicSR's files write them."""
    if isinstance(value, PlainText):
        try:
            return _to_int(str(value))
        except ValueError:
            value = _to_float(str(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)


def _to_int(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError
    return int(text.replace("_", ""))


def _to_float(text: str) -> float:
    if not re.fullmatch(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?", text) and text.lower() not in _ODD:
        raise ValueError
    return float_of(text)


def float_of(text: str) -> float:
    """The number that YAML writes so, ``.inf`` and ``.nan`` included.

    Raises:
        ValueError: it is none.
    """
    return float(_ODD.get(text.lower(), text.replace("_", "")))
