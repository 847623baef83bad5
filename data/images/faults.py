"""What is wrong with many images, said in few lines: the same fault of many is one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

SHOWN = 3  # images of a fault that are named

# Images of LMDB data sets and packs are called "FOLDER: KEY".
_MESSAGE = re.compile(r"((?:.*?\.(?:lmdb|pack): )?.*?): (.*)", re.DOTALL)
_PATH = re.compile(r"\S*(?:/|\.(?:png|jpe?g|bmp|tiff?|webp|lmdb|pack)\b)\S*", re.IGNORECASE)
_NUMBER = re.compile(r"\d[\d,.]*")


def by_fault(problems: Iterable[str]) -> list[list[str]]:
    """Messages of the form ``IMAGE: what is wrong``, those of one fault together, in the order of the first of each.

    Two faults are the same where they differ in numbers and paths only.
    """
    groups: dict[str, list[str]] = {}
    for problem in problems:
        groups.setdefault(fault_of(problem), []).append(problem)
    return list(groups.values())


def fault_of(problem: str) -> str:
    """What messages of the same fault have in common."""
    image, fault = _parts(problem)
    stem = Path(image.rpartition(": ")[2]).stem
    if " " in stem:  # what follows takes names for words without spaces
        fault = fault.replace(stem, "*.png")
    return _NUMBER.sub("0", _PATH.sub("*", fault))


def fault_lines(problems: Iterable[str]) -> list[str]:
    """A line for each fault: the message itself, or how many images have it, what it is, and the first three."""
    return [_line(group) for group in by_fault(problems)]


def _line(group: Sequence[str]) -> str:
    if len(group) == 1:
        return group[0]
    images = ", ".join(_parts(problem)[0] for problem in group[:SHOWN])
    fault = _parts(group[0])[1]
    if any(_parts(problem)[1] != fault for problem in group):
        fault += " (the first of them)"
    what = f"{fault}: " if fault else ""
    return f"{len(group):,} images: {what}{images}{', ...' if len(group) > SHOWN else ''}"


def _parts(problem: str) -> tuple[str, str]:
    """The image, and what is wrong with it."""
    found = _MESSAGE.fullmatch(problem)
    return (found[1], found[2]) if found else (problem, "")
