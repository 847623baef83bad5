"""The attention of a network's modules, watched while it runs: each call of an operator, with the module and places.

Modules say where their tokens lie (:class:`archs.contract.AttentionModule`), operators what they were given
(:mod:`ops.observed`); here the two are brought together.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from archs.contract import AttentionModule
from archs.layers.places import AttentionPlaces
from ops.observed import AttentionCall, observed_by


@dataclass(frozen=True, eq=False)
class SeenAttention:
    """A call of an operator inside a module.

    Attributes:
        module: number of the module among :func:`attention_modules`.
        part: which of the module's attentions it is, or is some windows of.
        places: of that attention, for one image.
        first: the number, in the batch, of the window that is the first of the call.
        call: what the operator was given.
    """

    module: int
    part: int
    places: AttentionPlaces
    first: int
    call: AttentionCall


def attention_modules(network: nn.Module) -> dict[str, nn.Module]:
    """The modules whose attention can be looked at, by their names in the network and in its order."""
    return dict(item for item in network.named_modules() if isinstance(item[1], AttentionModule))


@contextmanager
def attention_seen_by(
    network: nn.Module, see: Callable[[SeenAttention], None], modules: Container[int] | None = None
) -> Iterator[None]:
    """While the network runs inside, hand over each call of its modules. Neither it nor its results are changed.

    Args:
        network: what is run.
        see: called when a call has been computed. What it is given is the network's own, and some of it is used up by
            later layers: to be read at once, and not to be written to.
        modules: numbers of modules among :func:`attention_modules`; None for all.
    """
    running: list[_Running] = []

    def watch(call: AttentionCall) -> None:
        if running:
            see(running[-1].next(call))

    with ExitStack() as stack:
        for number, module in enumerate(attention_modules(network).values()):
            if modules is None or number in modules:
                stack.callback(module.register_forward_pre_hook(_beginning(number, running)).remove)
                stack.callback(module.register_forward_hook(_ending(running), always_call=True).remove)
        stack.enter_context(observed_by(watch))
        yield


class _Running:
    """A module whose forward is on its way.

    Attributes:
        number: of the module.
        name: of its class, for messages.
        images: B.
        places: of its attentions.
        part: the attention whose windows come next.
        done: windows of it that were seen.
    """

    def __init__(self, number: int, name: str, images: int, places: tuple[AttentionPlaces, ...]) -> None:
        self.number, self.name, self.images, self.places = number, name, images, places
        self.part = self.done = 0

    def next(self, call: AttentionCall) -> SeenAttention:
        """What a call is: the next windows of the module's attentions."""
        fits = self.part < len(self.places)
        if fits:
            places = self.places[self.part]
            (windows, queries), keys = places.queries.shape, places.keys.shape[1]
            total = windows * self.images
            fits = (call.queries, call.keys) == (queries, keys) and self.done + call.windows <= total
        if not fits:
            raise ValueError(
                f"{self.name}: attention_places does not fit its attention: {call.windows} windows of {call.queries} "
                f"queries and {call.keys} keys came after {self.done} windows of attention number {self.part}"
            )
        seen = SeenAttention(self.number, self.part, places, self.done, call)
        self.done += call.windows
        if self.done == total:
            self.part, self.done = self.part + 1, 0
        return seen


def _beginning(number: int, running: list[_Running]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def begin(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(module, AttentionModule)
        x: Tensor = arguments[0]
        running.append(_Running(number, type(module).__name__, x.shape[0], module.attention_places(*arguments)))

    return begin


def _ending(running: list[_Running]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def end(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        running.pop()

    return end
