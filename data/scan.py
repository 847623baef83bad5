"""Looking at many images: by several threads, collecting what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from utils.env import available_cores
from utils.errors import InputError
from utils.log import get_logger
from utils.progress import Progress

Result = TypeVar("Result")


def in_threads(function: Callable[[int], Result], indices: Sequence[int], description: str) -> list[Result]:
    """``function`` of each index, in order, computed by as many threads as there are cores, with progress.

    Decoding images does not hold Python's lock. The first exception ends the work and is raised.
    """
    if not indices:
        return []
    results = []
    pool = ThreadPoolExecutor(available_cores())
    try:
        with Progress(len(indices), description, plain=get_logger().info) as progress:
            for result in pool.map(function, indices):
                results.append(result)
                progress.advance()
    finally:
        pool.shutdown(cancel_futures=True)
    return results


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
