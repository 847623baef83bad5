"""Looking at many images: by several threads, collecting what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import torch.distributed as dist

from utils.env import available_cores
from utils.errors import InputError
from utils.log import PASSING, get_logger
from utils.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``function`` of each item, in order, by as many threads as there are cores; few results wait at any time.

    Decoding images does not hold Python's lock. The first exception ends the work and is raised.
    """
    rest = iter(items)
    with ThreadPoolExecutor(available_cores()) as pool:
        waiting: list[Future[Result]] = [pool.submit(function, item) for item in islice(rest, 4 * available_cores())]
        try:
            while waiting:
                result = waiting.pop(0).result()
                waiting += [pool.submit(function, item) for item in islice(rest, 1)]
                yield result
        finally:
            for future in waiting:
                future.cancel()


def in_threads(function: Callable[[int], Result], indices: Sequence[int], description: str) -> list[Result]:
    """The results of :func:`in_order`, all of them, with progress."""
    if not indices:
        return []
    results = []
    plain = partial(get_logger().info, extra={PASSING: True})
    with Progress(len(indices), description, plain=plain, shown=_is_first_rank()) as progress:
        for result in in_order(function, indices):
            results.append(result)
            progress.advance()
    return results


def _is_first_rank() -> bool:
    """Whether this process is the one of a distributed run that draws progress; each rank reads the images."""
    return not dist.is_available() or not dist.is_initialized() or dist.get_rank() == 0


def scan(load: Callable[[int], Any], count: int, name: str) -> tuple[str, ...]:
    """Load the images 0 .. count-1; returns the messages of those that cannot be used."""

    def problem(index: int) -> str | None:
        try:
            load(index)
        except InputError as error:
            return str(error)
        return None

    found = in_threads(problem, range(count), f"{name}: reading all images")
    return tuple(message for message in found if message is not None)


@contextmanager
def about(name: str) -> Iterator[None]:
    """Open the message of an InputError with the name of the data set."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def size_text(image: Any) -> str:
    """Height and width of an array, for messages."""
    height, width = image.shape[:2]
    return f"{height} x {width} (height x width)"
