"""The five benchmarks of super-resolution, brought from the archives and folders that people have into one tree.

``SET/xS/HR/NAME.png`` and ``SET/xS/LR/NAME.png`` for each factor S, and ``SET/HR/NAME.png``, uncropped, for factors of
any kind. Nothing is decoded that can be copied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.images.files import Pixels, decode_image, encode_image
from data.images.integrity import damage, png_size
from data.images.scan import in_threads
from data.prepare.archives import Entry, open_sources
from data.prepare.common import exclusive, finish_writing, has_png_end, write_whole
from data.prepare.layouts import SETS, Guess, guess
from data.resizing.matlab import downscale, mod_crop
from utils.errors import InputError

# Height and width of the uncropped images; of B100 either way round. Archives hold them cropped by up to 11 pixels.
_SIZES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "Set5": ((512, 512), (288, 288), (256, 256), (280, 280), (344, 228)),
    "Set14": (
        (480, 500), (576, 720), (512, 512), (288, 352), (361, 250), (276, 276), (362, 500), (512, 768), (656, 529),
        (391, 586),
    ),
    "B100": ((321, 481), (481, 321)),
}  # fmt: skip
_CROPPED = 12


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one set at one factor.

    Attributes:
        name: of the set.
        scale: the factor; None: the uncropped images.
        images: in the tree now.
        made: low-resolution files that were computed.
        problems: one line each.
    """

    name: str
    scale: int | None
    images: int
    made: int = 0
    problems: tuple[str, ...] = ()


@dataclasses.dataclass
class _Image:
    """The files of one image: high-resolution ones and, for each factor, low-resolution ones."""

    high: list[tuple[Guess, Entry]] = dataclasses.field(default_factory=list)
    low: dict[int, Entry] = dataclasses.field(default_factory=dict)


def arrange_benchmarks(
    sources: Sequence[Path],
    target: Path,
    names: Sequence[str] = tuple(SETS),
    scales: Sequence[int] = (2, 3, 4),
    *,
    make_lr: bool = False,
) -> list[Outcome]:
    """Find the benchmarks in folders and archives, and write the tree. Files that are there and up to date stay.

    Args:
        sources: folders, ``.zip`` and ``.tar`` files (compressed or not); archives inside of folders count too. They
            are left as they are.
        target: the folder for the tree, such as ``datasets/benchmark``.
        names: which sets, of ``SETS``.
        scales: which factors.
        make_lr: compute low-resolution images that the sources lack, by MATLAB's bicubic as published files were made.

    Returns:
        One outcome for each set and factor, of sets of which the sources hold something; in order.

    Raises:
        InputError: a source cannot be read, or holds none of the sets.
    """
    with open_sources(sources, target, apart=True) as entries:
        found = _sorted_out(entries)
        wanted = [name for name in names if name in found]
        if not wanted:
            raise InputError(
                f"{', '.join(map(str, sources))}: no images of {', '.join(names)} were found; a folder or an archive "
                "must have the name of a set, such as Set5/, BSD100/ or Urban100.zip"
            )
        return [
            outcome
            for name in wanted
            for outcome in (
                *(_arrange(name, found[name], target / name, scale, make_lr) for scale in scales),
                _arrange_whole(name, found[name], target / name),
            )
        ]


def _sorted_out(entries: Sequence[Entry]) -> dict[str, dict[str, _Image]]:
    """Set -> image -> its files. Of two files with the same meaning the first counts."""
    found: dict[str, dict[str, _Image]] = {}
    for entry in entries:
        meaning = guess(entry.path)
        if meaning is None:
            continue
        image = found.setdefault(meaning.dataset, {}).setdefault(meaning.image, _Image())
        if not meaning.low:
            image.high.append((meaning, entry))
        elif meaning.scale is not None:
            image.low.setdefault(meaning.scale, entry)
    for images in found.values():
        for key in [key for key, image in images.items() if not image.high and not image.low]:
            del images[key]
    return found


def _arrange(name: str, images: Mapping[str, _Image], folder: Path, scale: int, make_lr: bool) -> Outcome:
    """``SET/xS``."""
    keys = sorted(images)
    place = folder / f"x{scale}"

    def arrange(index: int) -> tuple[bool, str | None]:
        key = keys[index]
        try:
            return _pair(name, key, images[key], place, scale, make_lr), None
        except InputError as error:
            return False, str(error)

    with exclusive(folder):
        results = in_threads(arrange, range(len(keys)), f"{name} x{scale}")
        for part in ("HR", "LR"):
            finish_writing(place / part)
    problems = [problem for _, problem in results if problem]
    present = len(keys) - len(problems)
    strangers = _strangers(place / "HR", set(keys)) + _strangers(place / "LR", set(keys))
    return Outcome(
        name, scale, present, sum(made for made, _ in results), (*problems, *_count(name, present), *strangers)
    )


def _arrange_whole(name: str, images: Mapping[str, _Image], folder: Path) -> Outcome:
    """``SET/HR``: the largest of each image's files."""
    keys = sorted(images)

    def arrange(index: int) -> str | None:
        key = keys[index]
        target = folder / "HR" / f"{key}.png"
        try:
            entries = [entry for _, entry in images[key].high]
            if not entries:
                raise InputError(f"{name}: {key}: no high-resolution file")
            if not _is_up_to_date(target, entries):
                write_whole(target, _as_png(_largest(entries)))
        except InputError as error:
            return str(error)
        return None

    with exclusive(folder):
        problems = [problem for problem in in_threads(arrange, range(len(keys)), name) if problem]
        finish_writing(folder / "HR")
    present = len(keys) - len(problems)
    return Outcome(name, None, present, 0, (*problems, *_count(name, present)))


def _pair(name: str, key: str, image: _Image, place: Path, scale: int, make_lr: bool) -> bool:
    """Write HR and LR of one image; returns whether LR was computed.

    Raises:
        InputError: a file is missing, damaged, or of a wrong size.
    """
    high, low = place / "HR" / f"{key}.png", place / "LR" / f"{key}.png"
    small = image.low.get(scale)
    candidates = [entry for meaning, entry in image.high if meaning.scale in (scale, None)]
    if not candidates:
        raise InputError(f"{name} x{scale}: {key}: no high-resolution file")
    if small is None and not make_lr:
        raise InputError(f"{name} x{scale}: {key}: no low-resolution file; --make_lr computes it")
    inputs = [*candidates, *([small] if small else [])]
    if _is_up_to_date(high, inputs) and _is_up_to_date(low, inputs):
        return small is None
    if small is None:
        large = mod_crop(_largest(candidates).pixels(), scale)
        if not large.size:
            raise InputError(f"{candidates[0].label}: smaller than one pixel at x{scale}")
        _check_size(name, candidates[0].label, large)
        write_whole(low, encode_image(".png", downscale(large, scale, rule="published")))
        write_whole(high, encode_image(".png", np.ascontiguousarray(large)))
        return True
    height, width = small.size
    entry = next((entry for entry in candidates if _fits(entry, height, width, scale)), None)
    if entry is None:
        sizes = "; ".join(f"{entry.label} is {entry.size[0]} x {entry.size[1]}" for entry in candidates)
        raise InputError(
            f"{small.label} is {height} x {width} (height x width), but {sizes}; expected {scale} times that"
        )
    _check_size(name, entry.label, np.empty((scale * height, scale * width, 0), np.uint8))
    contents = _as_png(small), _as_png(entry, scale * height, scale * width)  # both or none
    write_whole(low, contents[0])
    write_whole(high, contents[1])
    return False


def _fits(entry: Entry, height: int, width: int, scale: int) -> bool:
    """Whether a high-resolution image, cropped to multiples of the factor, belongs to a low-resolution size."""
    H, W = entry.size
    return (H // scale, W // scale) == (height, width)


def _largest(entries: Sequence[Entry]) -> Entry:
    return max(entries, key=lambda entry: entry.size[0] * entry.size[1])


def _as_png(entry: Entry, height: int | None = None, width: int | None = None) -> bytes:
    """The file itself where it is a PNG of that size, else a new one, cropped at the right and below."""
    content = entry.read()
    size = png_size(content)
    if size is not None and (height is None or size == (height, width)):
        problem = damage(content)
        if problem:
            raise InputError(f"{entry.label}: the image cannot be read: {problem}")
        return content
    pixels: Pixels = decode_image(content, entry.label, keep_grey=True)
    return encode_image(".png", np.ascontiguousarray(pixels[:height, :width]))


def _check_size(name: str, label: str, image: Pixels) -> None:
    """Raise InputError if the image is none of the set's, by its size."""
    height, width = image.shape[:2]
    known = _SIZES.get(name)
    if known and not any(0 <= H - height < _CROPPED and 0 <= W - width < _CROPPED for H, W in known):
        raise InputError(f"{label}: {height} x {width} (height x width); no image of {name} has this size")


def _count(name: str, images: int) -> list[str]:
    return [] if images == SETS[name] else [f"{name}: {images} images, expected {SETS[name]}"]


def _strangers(folder: Path, keys: set[str]) -> list[str]:
    """Files that an option file would read although they are none of this set."""
    if not folder.is_dir():
        return []
    others = sorted(path for path in folder.iterdir() if path.stem not in keys and not path.name.startswith("."))
    return [f"{path}: not of these sources; remove it, or arrange into another folder" for path in others]


def _is_up_to_date(target: Path, entries: Sequence[Entry]) -> bool:
    """Whether a file is there, whole, and not older than what it is made of."""
    try:
        changed = target.stat().st_mtime_ns
        return all(changed >= entry.stamp for entry in entries) and has_png_end(target)
    except FileNotFoundError:
        return False
