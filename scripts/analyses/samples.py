"""Flags of the kinds of analysis that look at modules, and at crops of a set of pictures."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from analysis.crops import Crops, square_crops
from analysis.features import names_of
from analysis.subjects import Subject
from scripts.analyses.common import one_scale, pictures_for
from utils.errors import InputError
from utils.progress import Progress
from utils.wording import first_few


def add_crops(parser: argparse.ArgumentParser) -> None:
    """Flags that say how many crops of which size are taken from the pictures."""
    group = parser.add_argument_group("crops")
    group.add_argument(
        "--count", type=int, default=32, metavar="N", help="crops at most, of all pictures alike (default: 32)"
    )
    group.add_argument(
        "--side", type=int, default=64, metavar="PIXELS", help="side in low-resolution pixels (default: 64)"
    )


def add_modules(parser: argparse.ArgumentParser, default: str) -> None:
    """The flag that names modules."""
    parser.add_argument(
        "--of", nargs="+", metavar="MODULE",
        help='groups, blocks, layers, or names of modules, in which * stands for any part: "layers.*.blocks.0" '
        f"(default: {default})",
    )  # fmt: skip


def modules_of(subjects: Sequence[Subject], chosen: Sequence[str]) -> list[list[str]]:
    """The names of the modules of each network; a name that one of them has may be none of another's.

    Raises:
        InputError: none of them has something of a name, or a network has nothing of any.
    """
    found: list[list[str]] = []
    for subject in subjects:
        own = [text for text in chosen if _has(subject, text)]
        elsewhere = [text for text in chosen if any(_has(other, text) for other in subjects)]
        # A name that nobody has is the first network's to complain about.
        found.append(names_of(subject.network, own if own and len(elsewhere) == len(chosen) else chosen))
    return found


def _has(subject: Subject, text: str) -> bool:
    try:
        return bool(names_of(subject.network, [text]))
    except InputError:
        return False


def crops_for(typed: argparse.Namespace, subjects: Sequence[Subject]) -> list[Crops]:
    """The same crops for each network, as it takes them."""
    scale = one_scale(subjects) if typed.input_is == "hr" else 1.0
    return [square_crops(pictures_for(typed, subject), typed.side, typed.count, scale) for subject in subjects]


def counted(batches: Iterable[Tensor], progress: Progress) -> Iterator[Tensor]:
    """Batches of crops, each counted when the next one is asked for."""
    for batch in batches:
        yield batch
        progress.advance(len(batch))


def source_of(typed: argparse.Namespace) -> str:
    """What the pictures are called."""
    return first_few(typed.input, 3)
