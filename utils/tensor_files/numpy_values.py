"""NumPy's scalars, arrays and data types inside a weight file, made without running what the file says.

``best_psnr`` of a checkpoint is often a ``numpy.float64``. torch's weights-only loader refuses NumPy's names; here they
stand for functions of this module, which take plain numbers, characters and bytes apart themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pickle import UnpicklingError
from typing import Any

import numpy as np

_HARMLESS = re.compile(r"[?biufcSU]\d*")  # numbers, truth values, text; no Python objects, no fields
_MOST_AXES = 32


class _DataType:
    """``numpy.dtype`` as files write it: its code, then its state, of which the byte order counts."""

    def __init__(self, code: Any, _align: Any = False, _copy: Any = True) -> None:
        if not isinstance(code, str) or not _HARMLESS.fullmatch(code):
            raise UnpicklingError(f"a NumPy data type {code!r}")
        self.value = np.dtype(code)

    def __setstate__(self, state: Sequence[Any]) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """``numpy.ndarray`` as files write it: empty, then its state."""

    def __init__(self, _kind: Any, _shape: Any, _code: Any) -> None:
        self.value = np.empty(0)

    def __setstate__(self, state: Sequence[Any]) -> None:
        _version, shape, kind, column_major, data = state
        if not isinstance(kind, _DataType) or not isinstance(data, bytes) or len(shape) > _MOST_AXES:
            raise UnpicklingError("a NumPy array of an unknown form")
        flat = np.frombuffer(data, kind.value)
        self.value = flat.reshape(shape, order="F" if column_major else "C").copy()


class _Kind:
    """``numpy.ndarray`` itself, which stands beside an array's state; nothing is made of it."""


def _scalar(kind: Any, data: Any = b"") -> Any:
    if not isinstance(kind, _DataType) or not isinstance(data, bytes):
        raise UnpicklingError("a NumPy scalar of an unknown form")
    return np.frombuffer(data, kind.value, count=1)[0]


_MULTIARRAY = ("numpy._core.multiarray", "numpy.core.multiarray")  # NumPy 2, NumPy 1

ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_DataType, "numpy.dtype"),
    (_Kind, "numpy.ndarray"),
    *((_scalar, f"{module}.scalar") for module in _MULTIARRAY),
    *((_Array, f"{module}._reconstruct") for module in _MULTIARRAY),
]
"""For ``torch.serialization.safe_globals``: what runs, and the name in files that it takes the place of."""


def unwrapped(value: Any) -> Any:
    """A loaded content with NumPy's own arrays and data types in the place of this module's."""
    if isinstance(value, _DataType | _Array):
        return value.value
    if isinstance(value, Mapping):
        return {key: unwrapped(item) for key, item in value.items()}
    return [unwrapped(item) for item in value] if type(value) is list else value
