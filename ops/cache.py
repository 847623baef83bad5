"""Constants that follow from a few sizes: computed once for each, and not at all by whoever has them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor

from ops.registry import recording

P = ParamSpec("P")

_forgetters: list[Callable[[], None]] = []


def cached_constant(size: int) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Keep the last ``size`` results of a function that makes a tensor from hashable arguments.

    The results are shared: nobody may write to them. In a graph that is being compiled or exported, and where tensors
    are stand-ins without values, the function runs as it is, so that a graph never holds a tensor of another one.
    """

    def decorate(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        @functools.lru_cache(size)
        def kept(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            # Not in inference mode: the value may serve a later call that records a graph.
            with torch.inference_mode(False), torch.no_grad():
                return function(*args, **kwargs)

        _forgetters.append(kept.cache_clear)

        @functools.wraps(function)
        def constant(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            if recording() or type(torch.empty(0)) is not Tensor:
                return function(*args, **kwargs)
            return kept(*args, **kwargs)  # type: ignore[arg-type]  # hashable, as said above

        return constant

    return decorate


@cached_constant(8)
def per_channel(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[C, 1, 1], a number for each channel; made once, since the host waits for a GPU that it gives numbers."""
    return torch.tensor(numbers, dtype=dtype, device=device).view(-1, 1, 1)


def forget_constants() -> None:
    """Free the memory of all constants; those that are asked for again are computed afresh."""
    for forget in _forgetters:
        forget()
