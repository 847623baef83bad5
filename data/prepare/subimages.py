"""Large images cut into overlapping squares, named and placed as BasicSR does it."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.images.files import decode_image, image_size, list_images, read_bytes
from data.images.scan import in_threads
from data.prepare.common import Skipper, is_up_to_date, write_picture, writing_to
from data.prepare.origins import note_origins
from utils.errors import InputError

_SCALES = re.compile("x[2348]")  # removed from names: crops of 0001x4.png are called like those of 0001.png
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


class Grid(NamedTuple):
    """Where squares are cut.

    Attributes:
        size: side of a square.
        step: distance between neighbours.
        threshold: a rest of the image wider than this gets a square of its own at the border.
    """

    size: int = 480
    step: int = 240
    threshold: int = 0


def starts(length: int, grid: Grid) -> list[int]:
    """First pixels of the squares along an axis of ``length`` pixels."""
    places = list(range(0, length - grid.size + 1, grid.step))
    if places and length - (places[-1] + grid.size) > grid.threshold:
        places.append(length - grid.size)
    return places


def crops(name: str, height: int, width: int, grid: Grid) -> list[tuple[str, int, int]]:
    """(file name, top, left) of the squares of an image, row by row."""
    path = Path(name)
    base = _SCALES.sub("", path.stem)
    suffix = path.suffix if path.suffix.lower() in _LOSSLESS else ".png"  # a crop loses nothing more
    places = [(top, left) for top in starts(height, grid) for left in starts(width, grid)]
    return [(f"{base}_s{number:03d}{suffix}", top, left) for number, (top, left) in enumerate(places, 1)]


def cut_subimages(
    source: Path, target: Path, grid: Grid, *, compression: int = 3, skip_bad: bool = False
) -> tuple[int, Sequence[str]]:
    """Cut all images of a folder into squares.

    Squares that an earlier run has written are kept, unless their image has changed since.

    Args:
        source: folder of images, which are left as they are.
        target: folder for the squares.
        grid: where to cut.
        compression: level of PNG files.
        skip_bad: leave out images that cannot be read or are smaller than a square.

    Returns:
        Number of squares, and what was left out.

    Raises:
        InputError: an image cannot be used, or squares of two images would have the same name, be it one of another
            folder whose squares are there.
        StorageError: the disk is full.
    """
    files = list_images(source)
    images = _by_base(files)
    skipper = Skipper(skip_bad)

    def cut(path: Path) -> int:
        height, width = image_size(path)
        listed = crops(path.name, height, width, grid)
        if not listed:
            raise InputError(
                f"{path}: the image is {height} x {width} (height x width), smaller than the sub-images "
                f"({grid.size}); choose a smaller crop size or leave the image out"
            )
        if not is_up_to_date([target / name for name, _, _ in listed], path):
            image = decode_image(read_bytes(path), str(path), keep_grey=True)
            for name, top, left in listed:
                square = image[top : top + grid.size, left : left + grid.size]
                write_picture(target / name, square.copy(), compression)
        return len(listed)

    guarded = skipper.usable(cut)
    with writing_to(target, {"crop_size": grid.size, "step": grid.step, "thresh_size": grid.threshold}):
        note_origins(images, {target: lambda base: any(target.glob(f"{glob.escape(base)}_s001.*"))})
        counts = in_threads(lambda i: guarded(files[i]), range(len(files)), "cutting sub-images")
    return sum(count or 0 for count in counts), skipper.messages


def _by_base(files: Sequence[Path]) -> dict[str, Path]:
    """The images by what the names of their squares begin with."""
    seen: dict[str, Path] = {}
    for path in files:
        base = _SCALES.sub("", path.stem)
        if base in seen:
            raise InputError(
                f"{path} and {seen[base]}: their sub-images would have the same names ({base}_s001, ...); "
                "put them into different folders"
            )
        seen[base] = path
    return seen
