"""What an evaluation does beside the network: a thread reads the next images and measures those before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, TypeVar

import torch

from utils.devices import abilities
from utils.threads import without_threads_of_its_own

P = ParamSpec("P")
Result = TypeVar("Result")


class Beside:
    """Runs functions in one thread, in their order.

    Args:
        measures: whether :meth:`start` uses the thread, and not only :meth:`ahead`.
    """

    def __init__(self, *, measures: bool) -> None:
        self.measures = measures
        self._pool = ThreadPoolExecutor(1, "beside")
        without_threads_of_its_own(self._pool)

    @classmethod
    def of(cls, device: torch.device) -> Beside:
        """The thread for a network on a device.

        One that works while the host goes on would make the thread wait for all that the network has been given, so
        that it only reads there.
        """
        return cls(measures=not abilities(device).asynchronous)

    def __enter__(self) -> Beside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def start(self, function: Callable[P, Result], *arguments: P.args, **named: P.kwargs) -> Callable[[], Result]:
        """Begin a call; what is returned gives its result, or raises what it has raised."""
        if self.measures:
            return self._pool.submit(function, *arguments, **named).result
        result = function(*arguments, **named)
        return lambda: result

    def ahead(self, function: Callable[[int], Result], numbers: Sequence[int]) -> Iterator[Callable[[], Result]]:
        """A call for each number, the next one begun when one is taken."""
        waiting = [self._pool.submit(function, number) for number in numbers[:1]]
        for following in [*numbers[1:], None]:
            reading = waiting.pop() if waiting else None
            if following is not None:
                waiting.append(self._pool.submit(function, following))
            if reading is not None:
                yield reading.result
