"""PyTorch's compiler is imported by what compiles, and not by the first optimiser of every run.

Importing ``torch._dynamo`` takes as long as importing torch. PyTorch does so at the first call of a function that its
compiler is not to look into, and in every optimiser's step: where nothing is compiled, for nothing.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils import checkpoint, flop_counter

_COMPILER = "torch._dynamo"
_KEPT = "__dynamo_disable"  # where PyTorch remembers, once the compiler is there, how it keeps it out of a function


def spare_compiler() -> None:
    """Let optimisers, recomputation and the counter of operations run without importing the compiler.

    What they do stays the same. Where the compiler is there already, nothing is changed.
    """
    if _COMPILER in sys.modules:
        return
    counter: Any = getattr(flop_counter, "_FlopCounterMode", flop_counter.FlopCounterMode)
    functions: list[Any] = [
        Optimizer.add_param_group, Optimizer.load_state_dict, Optimizer.state_dict, Optimizer.zero_grad,
        checkpoint.checkpoint, counter.__torch_dispatch__,
    ]  # fmt: skip
    for function in functions:
        bare = getattr(function, "__wrapped__", None)
        if bare is not None and not hasattr(bare, _KEPT):
            setattr(bare, _KEPT, bare)


def step(optimizer: Optimizer) -> None:
    """``optimizer.step()``, which does not import the compiler."""
    if _COMPILER in sys.modules or optimizer.defaults.get("differentiable"):
        optimizer.step()
        return
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)
