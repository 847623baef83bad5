"""How this project's operators become operators of PyTorch: all alike, from one named tuple of arguments each.

PyTorch wants flat lists of arguments in its schemas, fake kernels, gradients and FLOP formulas. They are made here,
from the fields of the tuple, and nowhere else. Registering needs no compiler: kernels come from ops/csrc once
ops/build.py has loaded them; until then an operator can be traced, exported and counted, and not be called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

NAMESPACE = "focalsr"

Written: TypeAlias = Tensor
"""An argument that an operator writes to."""

Arguments = TypeVar("Arguments", bound=NamedTuple)

_SCHEMA_TYPES = {
    "Tensor": "Tensor", "Tensor | None": "Tensor?",
    "int": "int", "float": "float", "bool": "bool",
    "int | torch.SymInt": "SymInt",
}  # fmt: skip


def schema(arguments: type[NamedTuple], results: str) -> str:
    """The schema of an operator whose arguments are the fields of a named tuple.

    Args:
        arguments: the tuple; its fields are tensors, optional tensors, numbers or booleans.
        results: "Tensor", or a list in brackets as schemas have it.
    """
    # Annotations that are text arrive as references to what they name.
    fields: dict[str, Any] = {
        name: getattr(kind, "__forward_arg__", kind) for name, kind in arguments.__annotations__.items()
    }
    letters = iter("abcd")  # each written argument has one of its own
    kinds = {
        name: f"Tensor({next(letters)}!)" if kind == "Written" else _SCHEMA_TYPES[kind] for name, kind in fields.items()
    }
    return f"({', '.join(f'{kind} {name}' for name, kind in kinds.items())}) -> {results}"


def keep_arguments(ctx: Any, arguments: NamedTuple, output: object) -> None:
    """What a gradient needs that computes the rest again, for ``keep=``.

    The tensors, which come first, are ``ctx.saved_tensors``; what follows them is ``ctx.numbers``.
    """
    tensors = [value for value in arguments if value is None or isinstance(value, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.numbers = arguments[len(tensors) :]


def register(
    name: str,
    arguments: type[Arguments],
    results: str,
    *,
    fake: Callable[[Arguments], Any],
    flops: Callable[[Any], int] | None = None,
    keep: Callable[[Any, Arguments, Any], None] | None = None,
    differentiate: Callable[..., Any] | None = None,
    kernel: Callable[[Arguments], Any] | None = None,
) -> None:
    """Register ``torch.ops.focalsr.NAME``, which is called with the fields of a tuple: ``NAME(*arguments)``.

    Args:
        name: of the operator; kernels in C++ name it in ``TORCH_LIBRARY_IMPL``.
        arguments: the named tuple that holds its arguments.
        results: "Tensor", or a list in brackets as schemas have it.
        fake: empty tensors of the shapes, types and strides of the results.
        flops: floating-point operations, given the arguments with sizes in the place of tensors: two for a
            multiplication and an addition, as PyTorch counts.
        keep: ``keep(ctx, arguments, results)`` saves what the gradient needs.
        differentiate: ``differentiate(ctx, *gradients)`` is the gradient of each argument, or None.
        kernel: the implementation, where it is in Python.
    """
    qualified = f"{NAMESPACE}::{name}"
    torch.library.define(qualified, schema(arguments, results))
    if kernel is not None:  # torch.library.custom_op would import PyTorch's compiler at the first call
        run = kernel
        torch.library.impl(qualified, "CompositeExplicitAutograd", lambda *flat: run(arguments(*flat)))
    torch.library.register_fake(qualified, lambda *flat: fake(arguments(*flat)))
    if differentiate is not None:
        assert keep is not None
        save = keep
        torch.library.register_autograd(
            qualified, differentiate, setup_context=lambda ctx, inputs, output: save(ctx, arguments(*inputs), output)
        )
    if flops is not None:
        count = flops
        register_flop_formula(getattr(getattr(torch.ops, NAMESPACE), name))(
            lambda *sizes, **results: count(arguments(*sizes))
        )
