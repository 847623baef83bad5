"""Pieces of the sentences of messages."""

from __future__ import annotations

from collections.abc import Iterable


def first_few(names: Iterable[object], shown: int = 5) -> str:
    """The first names, with commas, and dots for the rest: ``a, b, c, ...``."""
    listed = list(map(str, names))
    return ", ".join(listed[:shown]) + (", ..." if len(listed) > shown else "")


def shortened(text: str, most: int = 200) -> str:
    """A text for a message: the start of one that is longer than ``most`` characters, and how long it is."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its class where it has none."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]
