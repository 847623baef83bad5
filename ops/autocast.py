"""Autocast for operators that it does not know: operands are taken in its type, as those of its own products are.

And its opposite, for arithmetic that keeps its types: :func:`without_autocast`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch

from utils.devices import KNOW_AUTOCAST

P = ParamSpec("P")
Result = TypeVar("Result")


def knows_autocast(device: str) -> bool:
    """Whether a type of devices knows autocast at all; "meta" does not, and what a plug-in calls its own may not."""
    return device in KNOW_AUTOCAST


def autocast_is_on(device: str) -> bool:
    """Whether autocast is on for a type of devices."""
    return knows_autocast(device) and torch.is_autocast_enabled(device)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast is off in this context, on devices that know it at all ("meta" does not)."""
    return torch.autocast(device.type, enabled=False) if knows_autocast(device.type) else nullcontext()


def takes_autocast(*operands: str) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Decorate the public function of an operator whose operands autocast shall cast.

    Where autocast is on for the device of the first operand, the operands arrive in its type, and autocast is off
    inside: the operator decides about types itself. float64 and integers stay.

    Args:
        operands: names of the function's first parameters, in order; they are tensors.
    """

    def decorate(function: Callable[P, Result]) -> Callable[P, Result]:
        @functools.wraps(function)
        def under_autocast(*args: P.args, **kwargs: P.kwargs) -> Result:
            first: Any = args[0] if args else kwargs.get(operands[0])
            if first is None or not autocast_is_on(first.device.type):
                return function(*args, **kwargs)
            device = first.device.type
            dtype = torch.get_autocast_dtype(device)
            cast: list[Any] = [_cast(x, dtype) if place < len(operands) else x for place, x in enumerate(args)]
            named: dict[str, Any] = {name: _cast(x, dtype) if name in operands else x for name, x in kwargs.items()}
            with torch.autocast(device, enabled=False):
                return function(*cast, **named)

        return under_autocast

    return decorate


def _cast(x: Any, dtype: torch.dtype) -> Any:
    return x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x
