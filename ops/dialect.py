"""Which operators the runtime of a program that is being recorded has, where there is more than one way to write it.

Whoever exports says so around the recording; nothing else depends on it::

    with recorded_for(ONNX_18):
        program = torch.export.export(form, (example,), dynamic_shapes=shapes)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """What a runtime can be asked for.

    Attributes:
        attention: it has an operator for the whole of attention. Otherwise products and softmax are written out, with
            bias and mask added one after the other: joined first, they would take as much memory as the logits.
        stable_topk: its choice of the largest numbers takes the first of equal ones.
    """

    attention: bool = True
    stable_topk: bool = False


TORCH = Dialect()
"""Programs that PyTorch runs, compiled or not; what is assumed unless something else is said."""

ONNX_18 = Dialect(attention=False, stable_topk=True)
"""ONNX, opset 18."""

ONNX_23 = Dialect(attention=True, stable_topk=True)
"""ONNX, opset 23: attention is an operator."""

_current = TORCH


@contextmanager
def recorded_for(dialect: Dialect) -> Iterator[None]:
    """Programs that are recorded inside are for a runtime of this dialect."""
    global _current
    before, _current = _current, dialect
    try:
        yield
    finally:
        _current = before


def dialect() -> Dialect:
    """The dialect of the program that is being recorded."""
    return _current
