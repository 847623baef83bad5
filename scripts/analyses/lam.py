"""``analyse.py lam``: which pixels decide about a window of the output, of several networks and images.

Shapes: h w low-resolution pixels, H W = s*h s*w high-resolution pixels; pictures uint8 in R G B.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from analysis.attribution import Attributed, Attribution, BlurPath, Window, attribute, most_detailed
from analysis.attribution.objective import Flat
from analysis.attribution.pictures import (
    bicubic_8bit,
    density_picture,
    map_picture,
    overlay,
    window_of,
    window_picture,
)
from analysis.drawing import Panel, Pixels, sheet
from analysis.images import Picture
from analysis.results import Results
from analysis.subjects import Subject
from data.images.files import to_tensor, to_uint8
from metrics import calculate_psnr
from models.evaluation.evaluate import format_table
from models.evaluation.pictures import bicubic_to, enlarged
from scripts.analyses.common import (
    add_images,
    add_networks,
    add_output,
    finish,
    numbers,
    one_scale,
    pictures_for,
    prepare,
    subjects_of,
)
from utils.errors import InputError
from utils.log import get_logger
from utils.progress import Progress
from utils.scale import scaled_length
from utils.suggest import near_miss
from utils.wording import first_few

PUBLISHED_STEPS = 50
_MOST_STEPS = 10_000
_WIDEST = 480  # columns of a panel; larger pictures are shrunk to it


@dataclasses.dataclass(frozen=True)
class NamedWindow:
    """A window of one image, or with None of all that have none of their own."""

    image: str | None
    window: Window


@dataclasses.dataclass(frozen=True)
class Found:
    """What one network says about one window of one image.

    Attributes:
        network: its name.
        image: its name.
        map: of the window.
        sr_size: H, W.
        passes: images of the path that were run.
        psnr: PSNR (Y) of the SR image and of the window; None where there is no HR image, or it is too small.
        panels: a row of a sheet; empty where it is not drawn.
    """

    network: str
    image: str
    map: Attribution
    sr_size: tuple[int, int]
    passes: int
    psnr: tuple[float | None, float | None]
    panels: Sequence[Panel]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this kind."""
    add_networks(parser)
    add_images(parser, "hr", "pillow")
    group = parser.add_argument_group("attribution")
    group.add_argument(
        "--window", nargs="+", type=window_of_text, default=[], metavar="[IMAGE=]X,Y,SIZE",
        help="squares of the SR image: first column, first row, side; with a name, of that image only (default: the "
        "square with the most detail, not at the border)",
    )  # fmt: skip
    group.add_argument(
        "--size", type=int, default=16, metavar="N", help="side of windows that are chosen by detail (default: 16)"
    )
    group.add_argument(
        "--steps", type=int, default=PUBLISHED_STEPS, metavar="N",
        help=f"images of the path (default: {PUBLISHED_STEPS}, as published); 25 are good enough for a first look",
    )  # fmt: skip
    group.add_argument(
        "--batch", type=int, metavar="N",
        help="images of the path at a time, which changes the memory and not the map (default: by free memory)",
    )  # fmt: skip
    group.add_argument(
        "--flat", choices=get_args(Flat), default="drop",
        help="where the SR image is flat in the window, gradients are undefined; drop: they count as 0, as published; "
        "zero: flat places count as no detail (default: drop)",
    )  # fmt: skip
    group.add_argument(
        "--sheets", type=int, default=12, metavar="N", help="draw the first N windows; numbers are of all (default: 12)"
    )
    add_output(parser)


def window_of_text(text: str) -> NamedWindow:
    """``X,Y,SIZE`` or ``IMAGE=X,Y,SIZE``."""
    image, mark, rest = text.rpartition("=")
    return NamedWindow(image if mark else None, Window(*numbers(rest, "X,Y,SIZE")))


def run(typed: argparse.Namespace) -> None:
    """Attribute, print, write."""
    check(typed)
    prepare(typed)
    subjects = subjects_of(typed)
    one_scale(subjects)
    windows = windows_of(typed, subjects[0])
    path = BlurPath(typed.steps)
    found: list[Found] = []
    with Progress(len(windows) * len(subjects) * path.steps, "lam", unit="steps", plain=get_logger().info) as progress:
        for subject in subjects:
            begun = len(found)
            for picture, chosen in zip(pictures_for(typed, subject), windows, strict=True):
                attributed = attribute(
                    subject.network, picture.lr, chosen, path=path, batch=typed.batch, flat=typed.flat,
                    watch=progress.advance,
                )  # fmt: skip
                warn(subject, picture, attributed)
                found += results_of(subject, picture, attributed, drawn=typed.sheets - (len(found) - begun))
    by_window = grouped(found, len(subjects))
    left_out = len(by_window) - typed.sheets
    if left_out > 0:
        get_logger().info("%d more windows are not drawn (--sheets); the numbers are of all", left_out)
    results = Results(
        kind="lam", text=text_of(by_window, typed), figures=figures_of(by_window, typed),
        arrays=arrays_of(by_window), pictures=sheets_of(by_window),
    )  # fmt: skip
    finish(typed, results, subjects)


def check(typed: argparse.Namespace) -> None:
    """Raise InputError where an argument makes no sense."""
    if not 1 <= typed.steps <= _MOST_STEPS:
        raise InputError(f"--steps must be from 1 to {_MOST_STEPS:,}, got {typed.steps}")
    for name, least in (("size", 1), ("batch", 1), ("sheets", 0)):
        value = getattr(typed, name)
        if value is not None and value < least:
            raise InputError(f"--{name} must be at least {least}, got {value}")


def windows_of(typed: argparse.Namespace, subject: Subject) -> list[list[Window]]:
    """The windows of each image, checked before the work; a window that is cut at the border is reported."""
    given: list[NamedWindow] = typed.window
    chosen: list[list[Window]] = []
    names: list[str] = []
    for picture in pictures_for(typed, subject):
        names.append(picture.name)
        height, width = (scaled_length(side, subject.scale) for side in picture.lr.shape[-2:])
        windows = [item.window for item in given if item.image == picture.name]
        windows = windows or [item.window for item in given if item.image is None]
        if not windows:
            windows = [most_detailed(full_size(picture, height, width), typed.size)]
            get_logger().info("%s: the window with the most detail is %s (x, y, side)", picture.name, windows[0])
        for window in windows:
            rows, columns = cut_of(picture, window, height, width)
            if min(rows, columns) < window.size:
                get_logger().warning(
                    "%s: the window %s reaches over the border of the SR image (%d x %d); the %d x %d pixels inside "
                    "count", picture.name, window, width, height, columns, rows,
                )  # fmt: skip
        chosen.append(windows)
    for item in given:
        if item.image is not None and item.image not in names:
            hint = near_miss(item.image, names) or f"; there are {first_few(names)}"
            raise InputError(f"--window {item.image}={item.window}: no image has this name{hint}")
    return chosen


def cut_of(picture: Picture, window: Window, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a window inside the SR image; the message of one outside names the image."""
    try:
        return window.cut(height, width)
    except InputError as error:
        raise InputError(f"--window: {picture.name}: {error}") from None


def full_size(picture: Picture, height: int, width: int) -> Tensor:
    """The HR image, or where there is none the LR image enlarged by bicubic, [C, H, W]."""
    return bicubic_to(picture.lr[0].cpu(), height, width) if picture.hr is None else to_tensor(picture.hr)


def warn(subject: Subject, picture: Picture, attributed: Attributed) -> None:
    """Report gradients that were undefined, and maps of zeros."""
    for item in attributed.windows:
        if item.undefined:
            get_logger().warning(
                "%s, %s: the SR image is flat in the window %s at %d of %d steps; %s values of gradients there are "
                "undefined and count as 0 (--flat zero counts flat places as no detail instead)",
                subject.name, picture.name, item.window, item.undefined_steps, attributed.passes, f"{item.undefined:,}",
            )  # fmt: skip
        if not item.signed.any():
            get_logger().warning(
                "%s, %s: nothing in the LR image changes the window %s on the path; its map is zero, and a DI of 100 "
                "says nothing", subject.name, picture.name, item.window,
            )  # fmt: skip


def results_of(subject: Subject, picture: Picture, attributed: Attributed, drawn: int) -> Iterator[Found]:
    """What is kept of the maps of an image; the first ones are drawn, so that no image has to be kept."""
    sr = rgb(to_uint8(attributed.sr.clamp(0, 1)))
    for k, item in enumerate(attributed.windows):
        psnr = (None, None) if picture.hr is None else (
            psnr_of(sr, picture.hr, int(subject.scale)),
            psnr_of(window_of(sr, item.window), window_of(picture.hr, item.window), 0),
        )  # fmt: skip
        row = panels(subject.name, picture, item, sr, psnr[1]) if k < drawn else []
        yield Found(subject.name, picture.name, item, sr.shape[:2], attributed.passes, psnr, row)


def psnr_of(image: Pixels, truth: Pixels, border: int) -> float | None:
    """PSNR (Y) without a border; None where nothing is left."""
    if min(image.shape[:2]) <= 2 * border:
        return None
    return float(calculate_psnr(image, truth, crop_border=border, test_y_channel=True))


def rgb(pixels: Pixels) -> Pixels:
    """Grey [H, W, 1] as three channels."""
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def grouped(found: Sequence[Found], networks: int) -> dict[str, list[Found]]:
    """What was found, one window after the other, by a name that tells them apart; each of all networks in order."""
    count = len(found) // networks
    groups = [list(found[k::count]) for k in range(count)]
    names = [group[0].image for group in groups]
    named: dict[str, list[Found]] = {}
    for name, group in zip(names, groups, strict=True):
        window = group[0].map.window
        full = name if names.count(name) == 1 else f"{name}_{window.x}_{window.y}_{window.size}"
        number = 1
        while full in named:
            number += 1
            full = f"{name}_{window.x}_{window.y}_{window.size}_{number}"
        named[full] = group
    return named


def means_of(by_window: Mapping[str, Sequence[Found]]) -> dict[str, float]:
    """Mean DI of each network over all windows."""
    columns = zip(*by_window.values(), strict=True)
    return {column[0].network: float(np.mean([item.map.diffusion_index for item in column])) for column in columns}


def text_of(by_window: Mapping[str, Sequence[Found]], typed: argparse.Namespace) -> str:
    """What a paper's text would say."""
    means = means_of(by_window)
    networks = list(means)
    rows = [
        [name, str(group[0].map.window), *(f"{item.map.diffusion_index:.2f}" for item in group)]
        for name, group in by_window.items()
    ]
    several = len(rows) > 1
    if several:
        rows.append(["mean", "", *(f"{value:.2f}" for value in means.values())])
    table = format_table(["diffusion index (DI)", "x, y, side", *networks], rows, means=several)
    lines = [table, "The larger the DI, the more pixels of the LR image take part in the window."]
    if len(means) > 1:
        order = sorted(means, key=lambda name: -means[name])
        lines.append(f"{'Mean DI' if several else 'DI'}: {' > '.join(f'{name} ({means[name]:.2f})' for name in order)}")
    sizes = {group[0].map.signed.shape for group in by_window.values()}
    if len(sizes) > 1:
        lines.append("The images differ in size, on which DI depends: compare networks, not images.")
    if typed.steps != PUBLISHED_STEPS:
        look = ": a first look" if typed.steps < PUBLISHED_STEPS else ""
        lines.append(f"{typed.steps} steps{look}; published figures are of {PUBLISHED_STEPS}.")
    return "\n".join(lines)


def figures_of(by_window: Mapping[str, Sequence[Found]], typed: argparse.Namespace) -> dict[str, object]:
    """For the JSON file."""
    windows = []
    for name, group in by_window.items():
        first = group[0]
        height, width = first.sr_size
        rows, columns = first.map.window.cut(height, width)
        windows.append(
            {
                "name": name,
                "image": first.image,
                "lr_size": list(first.map.signed.shape),
                "window": dataclasses.asdict(first.map.window),
                "rows": rows,
                "columns": columns,
                "networks": {item.network: figures_of_map(item) for item in group},
            }
        )
    means = means_of(by_window)
    return {
        "path": dataclasses.asdict(BlurPath(typed.steps)),
        "first_look": typed.steps < PUBLISHED_STEPS,
        "flat": typed.flat,
        "dtype": "float64" if typed.float64 else "float32",
        "input_is": typed.input_is,
        "downscale": typed.downscale if typed.input_is == "hr" else None,
        "crop": None if typed.crop is None else dataclasses.asdict(typed.crop),
        "mean_di": means,
        "order": sorted(means, key=lambda name: -means[name]),
        "windows": windows,
    }


def figures_of_map(item: Found) -> dict[str, object]:
    """The numbers of one map."""
    return {
        "di": item.map.diffusion_index,
        "gini": item.map.gini,
        "objective_first": item.map.first,
        "objective_last": item.map.last,
        "attribution_total": item.map.total,
        "passes": item.passes,
        "undefined": item.map.undefined,
        "undefined_steps": item.map.undefined_steps,
        "psnr_y": item.psnr[0],
        "psnr_y_window": item.psnr[1],
    }


def arrays_of(by_window: Mapping[str, Sequence[Found]]) -> dict[str, NDArray[np.float64]]:
    """The maps before the absolute value and the division, ``NETWORK/WINDOW/signed``, and after, ``.../map``."""
    arrays = {}
    for name, group in by_window.items():
        for item in group:
            arrays[f"{item.network}/{name}/signed"] = item.map.signed
            arrays[f"{item.network}/{name}/map"] = item.map.map
    return arrays


def sheets_of(by_window: Mapping[str, Sequence[Found]]) -> dict[str, Pixels]:
    """A sheet for each window that is drawn, a row for each network."""
    sheets = {name: sheet([item.panels for item in group]) for name, group in by_window.items() if group[0].panels}
    return {"": next(iter(sheets.values()))} if len(by_window) == len(sheets) == 1 else sheets


def panels(name: str, picture: Picture, item: Attribution, sr: Pixels, psnr: float | None) -> list[Panel]:
    """A row of a sheet: window, map, overlay of the map, overlay of its density, SR and HR of the window."""
    height, width = sr.shape[:2]
    lr = rgb(to_uint8(picture.lr))
    hr, window = picture.hr, item.window
    whole = bicubic_8bit(lr, height, width) if hr is None else hr
    lam = map_picture(item.map, height, width)
    spread = density_picture(item.map, height, width)
    row = [
        Panel(fitted(window_picture(whole, window)), f"{'LR' if hr is None else 'HR'}, window {window}"),
        Panel(fitted(lam), f"{name}: DI {item.diffusion_index:.2f}"),
        Panel(fitted(overlay(lam, lr)), "map over LR"),
        Panel(fitted(overlay(spread, lr)), "density over LR"),
        Panel(part_of(sr, window), name if psnr is None else f"{name}: {psnr:.2f} dB"),
    ]
    return row if hr is None else [*row, Panel(part_of(hr, window), "HR")]


def part_of(picture: Pixels, window: Window) -> Pixels:
    """The window, enlarged by a whole factor to about the height of the whole picture; pixels become squares."""
    part = window_of(picture, window)
    factor = max(1, min(_WIDEST, *picture.shape[:2]) // max(part.shape[:2]))
    return enlarged(part, factor * part.shape[0], factor * part.shape[1])


def fitted(picture: Pixels) -> Pixels:
    """A picture of at most ``_WIDEST`` columns; each pixel is the mean of those that it replaces."""
    height, width = picture.shape[:2]
    if width <= _WIDEST:
        return picture
    size = (_WIDEST, max(1, round(height * _WIDEST / width)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
