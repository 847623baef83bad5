"""Arithmetic that keeps its types under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from ops.autocast import knows_autocast


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast is off in this context, on devices that know it at all ("meta" does not)."""
    if knows_autocast(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
