"""Options that are built in Python pass the same checks as those that are read from a file."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from utils.errors import InputError
from utils.typed import INVALID, Report, fields_of, read_field, type_name


class Checked:
    """Base of frozen dataclasses of options: ``L1Loss(reduction="unknown")`` is refused as it is in an option file.

    Values become what their fields' types say: a list a tuple, a text a path.

    Raises:
        InputError: a value is not of its field's type, not among its choices or out of its range; all are named.
    """

    def __post_init__(self) -> None:
        report = Report()
        for name, field in fields_of(type(self)).items():
            given = getattr(self, name)
            value = read_field(given.item() if isinstance(given, np.generic) else given, field, report, (name,))
            if value is not INVALID:
                object.__setattr__(self, name, value)
        report.raise_problems(type(self).__name__)


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise InputError unless ``value``, called ``name``, is one of the values of the Literal ``choices``."""
    if value not in get_args(choices):
        raise InputError(f"{name}: expected {type_name(choices)}, got {value!r}")
