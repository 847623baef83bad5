"""Cheap steps that are computed again in the backward pass instead of keeping what they have made."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ops.registry import recording


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)``, of which only ``x`` is kept for the backward pass.

    The backward pass runs the function as far as the last of its operations whose gradient needs something kept: a
    linear layer at the end costs nothing. The function must be without randomness. Compiled graphs decide for
    themselves what they keep.

    Args:
        function: of one tensor, and of parameters.
        x: its argument.
    """
    if torch.is_grad_enabled() and not recording():
        result: Tensor = checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
        return result
    return function(x)
