"""``analyse.py erf``: how far networks look, the effective receptive field over images.

Shapes: h w low-resolution pixels.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from torch import Tensor

from analysis.drawing import Anchors, Panel, Pixels, coloured, colours, sheet
from analysis.features import names_of
from analysis.receptive_field import OUTPUT, SHARES, Area, ReceptiveField, receptive_fields
from analysis.results import Results
from analysis.subjects import Subject
from models.evaluation.evaluate import format_table
from models.evaluation.pictures import enlarged
from scripts.analyses.common import add_images, add_networks, add_output, finish, pictures_for, prepare, subjects_of
from utils.errors import InputError
from utils.log import get_logger
from utils.progress import Progress

_LEAST_SIZE = 5
_COLUMNS = 300  # of a panel, about
_IN_A_ROW = 4
_DRAWN = (0.2, 0.5, 0.99)  # the shares whose squares are drawn
_FRAME = (40, 40, 160)
# The upper half of the diverging red-yellow-green map, whose middle is 0: ColorBrewer's RdYlGn.
_YELLOW_GREEN: Anchors = tuple(
    (i / 5, (red / 255, green / 255, blue / 255))
    for i, (red, green, blue) in enumerate(
        [(255, 255, 191), (217, 239, 139), (166, 217, 106), (102, 189, 99), (26, 152, 80), (0, 104, 55)]
    )
)


@dataclasses.dataclass(frozen=True)
class Found:
    """The effective receptive field of one target of one network."""

    network: str
    field: ReceptiveField


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this kind."""
    add_networks(parser)
    add_images(parser, "lr")
    group = parser.add_argument_group("receptive field")
    group.add_argument(
        "--feature", nargs="+", default=[OUTPUT], metavar="NAME",
        help="what the centre pixel is taken from: output, the SR image; modules by their names, with * for any part; "
        "groups, blocks (default: output)",
    )  # fmt: skip
    group.add_argument(
        "--size", type=int, metavar="N",
        help="side of the square in the centre of each LR image (default: the largest square that all images hold)",
    )  # fmt: skip
    group.add_argument("--batch", type=int, metavar="N", help="images at a time (default: by free memory)")
    add_output(parser)


def run(typed: argparse.Namespace) -> None:
    """Look how far, print, write."""
    check(typed)
    prepare(typed)
    subjects = subjects_of(typed)
    targets = targets_of(subjects, typed.feature)
    sides = {subject.scale: sides_of(typed, subject) for subject in subjects}
    size = size_of(typed, [side for found in sides.values() for side in found])
    count = sum(len(sides[subject.scale]) for subject in subjects)
    found: list[Found] = []
    with Progress(count, "erf", plain=get_logger().info) as progress:
        for subject, names in zip(subjects, targets, strict=True):
            fields = receptive_fields(
                subject.network, crops(typed, subject, size), names, batch=typed.batch, watch=progress.advance
            )
            found += [Found(subject.name, field) for field in fields]
    for item in found:
        if item.field.left_out:
            get_logger().warning(
                "%s, %s: the gradients of %d images are not finite; these are left out", item.network,
                item.field.target, item.field.left_out,
            )  # fmt: skip
    results = Results(
        kind="erf", text=text_of(found, size), figures=figures_of(found, size, typed),
        arrays={f"{item.network}/{item.field.target}": item.field.matrix for item in found},
        pictures={"": picture_of(found)},
    )  # fmt: skip
    finish(typed, results, subjects)


def check(typed: argparse.Namespace) -> None:
    """Raise InputError where an argument makes no sense."""
    if typed.size is not None and typed.size < _LEAST_SIZE:
        raise InputError(f"--size must be at least {_LEAST_SIZE}, got {typed.size}")
    if typed.batch is not None and typed.batch < 1:
        raise InputError(f"--batch must be at least 1, got {typed.batch}")


def targets_of(subjects: Sequence[Subject], asked: Sequence[str]) -> list[list[str]]:
    """The targets of each network; a name has to be one of some network, others need not have it.

    Raises:
        InputError: no network has a module of a name, or a network has none of them.
    """
    targets: list[list[str]] = [[] for _ in subjects]
    for name in dict.fromkeys(asked):
        problems = []
        for subject, chosen in zip(subjects, targets, strict=True):
            try:
                chosen += [OUTPUT] if name == OUTPUT else names_of(subject.network, [name])
            except InputError as error:
                problems.append(f"--feature {name}: {subject.name}: {error}")
        if len(problems) == len(subjects):
            raise InputError(problems[0])
    for subject, chosen in zip(subjects, targets, strict=True):
        if not chosen:
            raise InputError(f"--feature: {subject.name} has none of these modules: {', '.join(asked)}")
    return [list(dict.fromkeys(chosen)) for chosen in targets]


def sides_of(typed: argparse.Namespace, subject: Subject) -> list[int]:
    """The shorter side of each LR image."""
    return [min(picture.lr.shape[-2:]) for picture in pictures_for(typed, subject)]


def size_of(typed: argparse.Namespace, sides: Sequence[int]) -> int:
    """The side of the crops: what was asked for, or what all images hold.

    Raises:
        InputError: an image is smaller.
    """
    least = min(sides)
    if typed.size is not None and typed.size > least:
        raise InputError(f"--size {typed.size}: the smallest LR image holds a square of {least} x {least} pixels only")
    return least if typed.size is None else typed.size


def crops(typed: argparse.Namespace, subject: Subject, size: int) -> Iterator[Tensor]:
    """The centres of the LR images, [1, c, size, size]."""
    for picture in pictures_for(typed, subject):
        top, left = ((side - size) // 2 for side in picture.lr.shape[-2:])
        yield picture.lr[..., top : top + size, left : left + size]


def text_of(found: Sequence[Found], size: int) -> str:
    """What a paper's text would say."""
    heads = ["network", "centre of", *(f"r at {share:.0%}" for share in SHARES)]
    lines = []
    for logarithm in (True, False):
        rows = []
        for item in found:
            areas = item.field.areas(logarithm=logarithm)
            rows.append([item.network, item.field.target, *(area_text(areas[share]) for share in SHARES)])
        of = "log10(E + 1), as published" if logarithm else "E, which the scale of the output does not change"
        lines.append(f"{of}:\n{format_table(heads, rows, means=False)}")
    images = found[0].field.images + found[0].field.left_out
    lines.append(
        f"{images} image{'s' * (images > 1)} of {size} x {size}; r: the share of the image's pixels in the smallest "
        "square (its side in brackets) that holds more than 20, 30, 50, 99 % of all contributions."
    )
    if len({item.network for item in found}) > 1 and len({item.field.target for item in found}) == 1:
        widest = sorted(found, key=lambda item: -item.field.areas(logarithm=False)[0.5].r)
        order = ", ".join(f"{item.network} {item.field.areas(logarithm=False)[0.5].r:.1%}" for item in widest)
        lines.append(f"From the widest to the narrowest (r at 50 %, without logarithm): {order}")
    if {item.field.target for item in found} == {OUTPUT}:
        lines.append(
            "The output holds the image itself by the skip connection, a peak in the centre; how far the body looks is "
            "seen with --feature NAME, a module in it."
        )
    return "\n".join(lines)


def area_text(found: Area) -> str:
    """``4.7% (13)``."""
    return f"{found.r:.1%} ({found.side})"


def figures_of(found: Sequence[Found], size: int, typed: argparse.Namespace) -> dict[str, object]:
    """For the JSON file."""
    return {
        "size": size,
        "dtype": "float64" if typed.float64 else "float32",
        "input_is": typed.input_is,
        "fields": [
            {
                "network": item.network,
                "target": item.field.target,
                "images": item.field.images,
                "left_out": item.field.left_out,
                "max": float(item.field.matrix.max()),
                "sum": float(item.field.matrix.sum()),
                "r_of_log": areas_of(item.field, logarithm=True),
                "r_without_log": areas_of(item.field, logarithm=False),
            }
            for item in found
        ],
    }


def areas_of(field: ReceptiveField, *, logarithm: bool) -> dict[str, dict[str, float]]:
    """Side and r by share."""
    return {str(share): found._asdict() for share, found in field.areas(logarithm=logarithm).items()}


def picture_of(found: Sequence[Found]) -> Pixels:
    """The fields side by side, with the squares of 20, 50 and 99 %; with several targets a row for each network."""
    several = len({item.field.target for item in found}) > 1
    rows: list[list[Panel]] = []
    for k, item in enumerate(found):
        half = item.field.areas(logarithm=True)[0.5]
        name = item.network if item.field.target == OUTPUT else f"{item.network} {item.field.target}"
        new_network = several and k > 0 and item.network != found[k - 1].network
        if not rows or new_network or len(rows[-1]) == _IN_A_ROW:
            rows.append([])
        rows[-1].append(Panel(field_picture(item.field), f"{name}: {half.r:.1%} at 50%"))
    return sheet(rows, least=1)


def field_picture(field: ReceptiveField) -> Pixels:
    """``log10(E + 1)`` over its maximum from yellow (0) to green (1), enlarged, with the squares."""
    h, w = field.matrix.shape
    factor = max(1, round(_COLUMNS / w))
    drawn = enlarged(coloured(field.logarithm, colours(_YELLOW_GREEN)), factor * h, factor * w)
    for share, found in field.areas(logarithm=True).items():
        if share in _DRAWN:
            reach = found.side // 2
            top, left = max(0, h // 2 - reach), max(0, w // 2 - reach)
            bottom, right = min(h, h // 2 + reach + 1), min(w, w // 2 + reach + 1)
            corner, opposite = (left * factor, top * factor), (right * factor - 1, bottom * factor - 1)
            drawn = np.asarray(cv2.rectangle(np.ascontiguousarray(drawn), corner, opposite, _FRAME, 1), np.uint8)
    return drawn
