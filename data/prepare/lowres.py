"""Low-resolution files, made of high-resolution ones by MATLAB's bicubic."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from data.images.files import decode_image, list_images, read_bytes
from data.images.scan import in_threads, size_text
from data.prepare.common import Skipper, is_up_to_date, write_picture, writing_to
from data.prepare.origins import note_origins
from data.resizing.matlab import Rule, downscale, mod_crop
from utils.errors import InputError
from utils.log import get_logger


def make_low_resolution(
    source: Path,
    target: Path,
    scales: Sequence[int],
    *,
    rule: Rule = "published",
    template: str = "{}x{s}",
    cropped: Path | None = None,
    skip_bad: bool = False,
) -> tuple[int, Sequence[str]]:
    """Write ``target/X2/NAME`` and so on for each image and scale, as PNG.

    Each image is cropped to a multiple of the scale first. What an earlier run has written is kept, unless its image
    has changed since. Other processes are kept out of these folders meanwhile.

    Args:
        source: folder of high-resolution images, which are left as they are.
        target: parent of the folders X2, X3, ..., or a folder with ``{s}`` in its path, which stands for the scale.
        scales: whole factors.
        rule: "published" or "double", see :func:`data.resizing.matlab.downscale`.
        template: name without extension; ``{}`` stands for the high-resolution one's, ``{s}`` for the scale.
        cropped: the same for the cropped high-resolution images; None: not written.
        skip_bad: leave out images that cannot be used.

    Returns:
        Number of files, and what was left out.

    Raises:
        InputError: an image cannot be read or is smaller than a low-resolution pixel; files of two images would have
            the same name, be it one of another folder whose files are there; folders are the same; or the files there
            were made by the other rule.
        StorageError: the disk is full.
    """
    files = list_images(source)
    images = _by_stem(files)
    parents = [target] if cropped is None else [target, cropped]
    _check_folders(source, parents, scales)
    skipper = Skipper(skip_bad)
    work = _Downscaling(target, cropped, scales, rule, template)
    guarded = skipper.usable(work.make)
    with ExitStack() as stack:
        for scale in scales:
            stack.enter_context(writing_to(_folder(target, scale), {"rule": rule}))
            if cropped is not None:
                stack.enter_context(writing_to(_folder(cropped, scale)))
        made = {_folder(target, s): lambda stem, s=s: work.small(stem, s).exists() for s in scales}
        note_origins(images, made)
        counts = in_threads(lambda i: guarded(files[i]), range(len(files)), "downscaling")
    if work.uneven:
        get_logger().warning(
            "%d images are no multiples of the scale, such as %s: training takes their low-resolution files with the "
            "cropped images only, which --hr DIR writes", len(work.uneven), min(work.uneven),
        )  # fmt: skip
    return sum(count or 0 for count in counts), skipper.messages


@dataclasses.dataclass(frozen=True)
class _Downscaling:
    """What is made of each image: the arguments of :func:`make_low_resolution`.

    Attributes:
        uneven: images that are no multiples of a scale, and whose cropped forms are not written.
    """

    target: Path
    cropped: Path | None
    scales: Sequence[int]
    rule: Rule
    template: str
    uneven: list[str] = dataclasses.field(default_factory=list)

    def make(self, path: Path) -> int:
        """Write the files of one image, unless they are there and newer; returns how many low-resolution ones."""
        smalls = [self.small(path.stem, scale) for scale in self.scales]
        larges = [] if self.cropped is None else [_folder(self.cropped, s) / f"{path.stem}.png" for s in self.scales]
        if not is_up_to_date([*smalls, *larges], path):
            image = decode_image(read_bytes(path), str(path), keep_grey=True)
            for i, scale in enumerate(self.scales):
                large = mod_crop(image, scale)
                if large.shape != image.shape and self.cropped is None:
                    self.uneven.append(f"{path} at x{scale}")
                if not large.size:
                    raise InputError(f"{path}: the image is {size_text(image)}, smaller than one pixel at x{scale}")
                write_picture(smalls[i], downscale(large, scale, rule=self.rule))
                if larges:
                    write_picture(larges[i], np.ascontiguousarray(large))
        return len(smalls)

    def small(self, name: str, scale: int) -> Path:
        """The low-resolution file of an image."""
        return _folder(self.target, scale) / f"{self.template.replace('{s}', str(scale)).replace('{}', name)}.png"


def _folder(parent: Path, scale: int) -> Path:
    text = str(parent)
    return Path(text.replace("{s}", str(scale))) if "{s}" in text else parent / f"X{scale}"


def _by_stem(files: Sequence[Path]) -> dict[str, Path]:
    seen: dict[str, Path] = {}
    for path in files:
        if path.stem in seen:
            raise InputError(f"{path} and {seen[path.stem]}: their files would have the same name; rename one")
        seen[path.stem] = path
    return seen


def _check_folders(source: Path, parents: Sequence[Path], scales: Sequence[int]) -> None:
    """All folders that are read or written have to be different ones."""
    seen = {os.path.realpath(source): "the input folder"}
    for parent in parents:
        for scale in scales:
            folder = _folder(parent, scale)
            place = os.path.realpath(folder)
            if place in seen:
                raise InputError(f"{folder} would be written to, but is {seen[place]}, too; choose another folder")
            seen[place] = f"the folder of other files, at x{scale}"
