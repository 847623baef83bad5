"""What autocast does to the operands of its own matrix products, for operators that it does not know."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

# Asked here, because the compiler of torch 2.6 breaks a graph at the question.
_DEVICES = frozenset(
    device for device in ("cpu", "cuda", "mps", "xpu", "hpu", "mtia") if torch.amp.is_autocast_available(device)
)


def knows_autocast(device: str) -> bool:
    """Whether a type of devices knows autocast at all; "meta" does not."""
    return device in _DEVICES


def as_autocast(*tensors: Tensor) -> tuple[tuple[Tensor, ...], AbstractContextManager[object]]:
    """Operands in autocast's type, and a context in which the operator decides about types itself.

    Autocast is asked for the device of the first tensor; without it both are what they were. float64 and integers stay.
    """
    device = tensors[0].device.type
    if not (knows_autocast(device) and torch.is_autocast_enabled(device)):
        return tensors, contextlib.nullcontext()
    dtype = torch.get_autocast_dtype(device)
    cast = tuple(x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors)
    return cast, torch.autocast(device, enabled=False)
