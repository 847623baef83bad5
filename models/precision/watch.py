"""Looks at every operation of a network while it runs: which module it belongs to, and what went in and out.

Much of our networks' arithmetic is between modules: residual sums, and layers whose weights another module uses. So
hooks alone see too little. Each operation belongs to the innermost module that is running; a layer that is not called
itself is recognised by its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Operation(NamedTuple):
    """One operation.

    Attributes:
        module: name of the innermost module that runs; empty for the network itself.
        layer: name of the module whose weights take part, else ``module``.
        name: of the operation, such as "convolution".
        function: of PyTorch.
        args: its operands.
        inputs: the floating-point tensors among them that are no weights.
        weights: those that are.
        outputs: the floating-point tensors that it made.
    """

    module: str
    layer: str
    name: str
    function: Any
    args: tuple[Any, ...]
    inputs: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def uninitialised(self) -> bool:
        """Whether it makes memory, and no values."""
        return self.name.startswith(("empty", "new_empty"))


class Observer(Protocol):
    """What is told of the operations, in their order."""

    def enter(self, module: str, inputs: tuple[Tensor, ...]) -> None:
        """A module is called with tensors."""

    def see(self, operation: Operation) -> None:
        """An operation is done."""


@contextmanager
def watched(network: nn.Module, observer: Observer) -> Iterator[None]:
    """Tell an observer of all that the network does in this block."""
    mode = _Mode(observer, _owners(network))
    running = mode.running
    handles = []

    def before(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            with mode.not_looking():
                observer.enter(name, _floats((args, kwargs)))
            running.append(name)

        return hook

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        running.pop()

    for name, module in network.named_modules():
        # Around the casts at the border of a module, which are a part of it.
        handles.append(module.register_forward_pre_hook(before(name), prepend=True, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    try:
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Mode(TorchDispatchMode):
    def __init__(self, observer: Observer, owners: dict[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.observer, self.owners = observer, owners
        self.running = [""]
        self.looks = True

    @contextmanager
    def not_looking(self) -> Iterator[None]:
        """What is computed in this block is the observer's."""
        self.looks = False
        try:
            yield
        finally:
            self.looks = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.looks or _is_view(func):
            return result
        operands = _floats((args, kwargs or {}))
        weights = tuple(x for x in operands if _memory(x) in self.owners)
        inputs = tuple(x for x in operands if _memory(x) not in self.owners)
        module = self.running[-1]
        layer = self.owners[_memory(weights[0])] if weights else module
        name = str(func.name()).partition("::")[2].partition(".")[0].strip("_")
        self.observer.see(Operation(module, layer, name, func, args, inputs, weights, _floats(result)))
        return result


def _owners(network: nn.Module) -> dict[int, str]:
    """Address of a parameter -> name of its module."""
    return {
        _memory(parameter): name
        for name, module in network.named_modules()
        for parameter in module.parameters(recurse=False)
    }


def _memory(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def _floats(value: Any) -> tuple[Tensor, ...]:
    return tuple(x for x in tree_leaves(value) if isinstance(x, Tensor) and x.is_floating_point())


def _is_view(func: Any) -> bool:
    """Whether an operation gives another view of its operand, and computes nothing."""
    returned = [item.alias_info for item in func._schema.returns]
    return bool(returned) and all(alias is not None and not alias.is_write for alias in returned)


def is_half(x: Tensor) -> bool:
    """Whether a tensor is in half precision."""
    return x.dtype in (torch.float16, torch.bfloat16)
