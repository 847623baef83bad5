"""Operators and their backends: which one serves a call, and in one sentence why the others do not.

An operator is one public function with several implementations. They are listed from the fastest to the reference,
which defines the operator and serves every call; the first that does not refuse a call runs it. A refusal is a
sentence: a search logs it at debug level, an explicit choice raises it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from utils.errors import InputError
from utils.log import get_logger

ENVIRONMENT = "FOCALSR_OPS"
AUTO, NATIVE, REFERENCE = "auto", "native", "reference"

Call = TypeVar("Call")
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Backend(Generic[Call, Function]):
    """One implementation of an operator.

    Attributes:
        name: what ``backend=`` selects.
        run: the implementation.
        refusal: one sentence why the call cannot be served, without the backend's name; None if it can.
        merit: why it is the one where it is chosen; shown by :func:`explain`.
        shortfall: why it is not the one where it could serve and one before it does; the first needs none.
        drawback: one sentence why a slower backend is the better choice for this call; an explicit choice ignores it.
        missing: one sentence why its compiled kernels cannot be had here; asked about calls that it does not refuse.
    """

    name: str
    run: Function
    refusal: Callable[[Call], str | None]
    merit: str
    shortfall: str = ""
    drawback: Callable[[Call], str | None] = lambda call: None
    missing: Callable[[Call], str | None] = lambda call: None

    def objection(self, call: Call) -> str | None:
        """One sentence why it cannot serve the call, now and here."""
        return self.refusal(call) or self.missing(call)


def only_on(device: str, *kinds: str) -> str | None:
    """One sentence why kernels for some types of devices cannot serve tensors of another one; None where they can."""
    if device in kinds:
        return None
    return (
        f"it has kernels for {' and '.join(kinds)} only; on {device}, where the tensors are, PyTorch's operators serve"
    )


def evaluates_on(device: str, *kinds: str, gradient: bool) -> str | None:
    """One sentence why kernels for some types of devices, which have no backward pass, cannot serve a call."""
    return only_on(device, *kinds) or ("it has no backward pass, and a gradient is wanted" if gradient else None)


@dataclass(frozen=True)
class Operator(Generic[Call, Function]):
    """A public function and its backends.

    Attributes:
        name: of the public function.
        backends: fastest first; the last one is called "reference" and never refuses.
        examples: named calls that :func:`explain` shows, for the devices of this machine.
    """

    name: str
    backends: tuple[Backend[Call, Function], ...]
    examples: Callable[[], Mapping[str, Call]]

    def choose(self, call: Call, backend: str = AUTO, *, strict: bool = True) -> Backend[Call, Function]:
        """The backend for a call.

        ``FOCALSR_OPS`` decides what "auto" means; a backend chosen by name stays chosen. In a compiled graph the
        variable is read when the graph is traced.

        Args:
            call: what the refusals look at.
            backend: "auto" or the name of a backend.
            strict: False makes the name a preference: a backend that refuses the call, or has a drawback for it, gives
                way to the choice of "auto", and the reason is logged once.

        Raises:
            InputError: no such backend, or it refuses the call.
        """
        if backend == AUTO:
            backend = environment_choice()
            if backend == NATIVE:
                return self._with_kernels(call)
        if backend == AUTO:
            return self._first(call)
        for candidate in self.backends:
            if candidate.name == backend:
                reason = candidate.objection(call)
                if not strict and (reason := reason or candidate.drawback(call)) is not None:
                    if not torch.compiler.is_compiling():
                        say_once(f"{self.name}: backend {backend} is preferred, but not used: {reason}")
                    return self.choose(call)
                if reason is not None:
                    raise InputError(f"{self.name}: backend {backend} cannot be used: {reason}")
                return candidate
        names = ", ".join([AUTO, *(candidate.name for candidate in self.backends)])
        raise InputError(f"{self.name}: there is no backend {backend!r}; expected one of {names}")

    def _with_kernels(self, call: Call) -> Backend[Call, Function]:
        """The choice of "auto", where the lack of kernels that are made for the call is an error."""
        for candidate in self.backends:
            if candidate.refusal(call) is None and (reason := candidate.missing(call)) is not None:
                raise InputError(f"{ENVIRONMENT}={NATIVE}, but {self.name}: {reason}")
        return self._first(call)

    def _first(self, call: Call) -> Backend[Call, Function]:
        """The first backend against which nothing speaks; the reference serves every call."""
        for candidate in self.backends[:-1]:
            reason = candidate.objection(call) or candidate.drawback(call)
            if reason is None:
                return candidate
            if not torch.compiler.is_compiling():
                log_once(f"{self.name}: backend {candidate.name} is not used: {reason}")
        return self.backends[-1]


class Choice(NamedTuple):
    """What :func:`explain` says of one call.

    Attributes:
        operator: its name.
        example: the call.
        backend: the one that serves it; "none" where FOCALSR_OPS forbids all.
        why: one sentence why it is the one.
        others: name -> one sentence why it is not.
    """

    operator: str
    example: str
    backend: str
    why: str
    others: Mapping[str, str]


class Explanation(tuple[Choice, ...]):
    """What :func:`explain` says; as text, a table with a line for each backend of each call, the chosen one first."""

    def __str__(self) -> str:
        rows = [("operator", "call", "backend", "why, and why not")]
        for choice in self:
            rows.append((choice.operator, choice.example, choice.backend, choice.why))
            rows += [("", "", f"not {name}", reason) for name, reason in choice.others.items()]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        head, *lines = (
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
        )
        return "\n".join([head, "-" * len(head), *lines])


def explain(operators: Iterable[Operator[Any, Any]]) -> Explanation:
    """For the examples of each operator: the backend that "auto" takes here and why, and why not each of the others."""
    return Explanation(
        _explained(operator, example, call) for operator in operators for example, call in operator.examples().items()
    )


def _explained(operator: Operator[Any, Any], example: str, call: Any) -> Choice:
    wanted = environment_choice()
    try:
        chosen = operator.choose(call)
        name, why = chosen.name, chosen.merit
    except InputError as error:  # FOCALSR_OPS=native, and there are no kernels
        chosen, name, why = None, "none", str(error)
    others = {}
    later = False  # than the chosen one
    for candidate in operator.backends:
        if candidate is chosen:
            later = True
            continue
        reason = candidate.objection(call) or candidate.drawback(call)
        if reason is None:
            reason = candidate.shortfall if later else f"{ENVIRONMENT}={wanted} asks for another"
        others[candidate.name] = reason
    if wanted == REFERENCE:
        why = f"{ENVIRONMENT}={wanted} asks for it"
    return Choice(operator.name, example, name, why, others)


def environment_choice() -> str:
    """What ``FOCALSR_OPS`` says: "auto" (default), "native" or "reference".

    ``native`` makes it an error that kernels which are made for a call cannot be compiled or loaded. Calls that no
    kernel is made for choose as with ``auto``.
    """
    choice = os.environ.get(ENVIRONMENT, AUTO)
    if choice not in (AUTO, NATIVE, REFERENCE):
        raise InputError(f"{ENVIRONMENT}={choice} means nothing; expected {AUTO}, {NATIVE} or {REFERENCE}")
    return choice


def tracing() -> bool:
    """Whether ``torch.jit.trace`` records a program, which is for evaluation in whatever mode it is recorded."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]  # public, and not in __all__


def exporting() -> bool:
    """Whether ``torch.export`` or ``torch.jit.trace`` records a program.

    It must run where this project's operators are not known (ONNX, ncnn, TorchScript), at the sizes of the example or,
    where they are free, at others.
    """
    # torch 2.6 cannot tell exporting from compiling.
    return tracing() or bool(getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)())


def free(size: int) -> bool:
    """Whether a size is one that the program which ``torch.export`` records takes as it comes.

    Nothing may be decided by it: a branch would become a condition on the images that the program takes.
    """
    return isinstance(size, torch.SymInt)


def divisor(size: int, device: torch.device) -> int | Tensor:
    """A size as tensors are divided by it: ONNX takes no free one as a number there, but as a tensor."""
    return torch.full((), size, device=device) if free(size) else size


def undecided(size: int) -> int:
    """A size of at least 1; a free one as one of which export knows no more than that.

    A count that is 1 for images of several sizes makes layers look whether it is, and the program would refuse those.
    """
    if not free(size):
        return size
    count: int = torch.full((), size, dtype=torch.int64).item()  # type: ignore[assignment]
    torch._check(count >= 1)
    return count


def recording() -> bool:
    """Whether the calls become a graph, to be compiled, exported or traced: nothing may be kept from it or for it."""
    return torch.compiler.is_compiling() or exporting()


@functools.cache
def say_once(message: str) -> None:
    """Log a message at info level, the first time only."""
    get_logger().info(message)


@functools.cache
def log_once(message: str) -> None:
    """Log a message at debug level, the first time only."""
    get_logger().debug(message)
