"""Low-resolution files, made of high-resolution ones by MATLAB's bicubic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.images import decode_image, list_images, read_bytes
from data.imresize import Rule, downscale, mod_crop
from data.prepare.common import Skipper, is_done, settled, write_picture
from data.scan import in_threads, size_text
from utils.errors import InputError


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
    has changed since.

    Args:
        source: folder of high-resolution images, which are left as they are.
        target: parent of the folders X2, X3, ..., or a folder with ``{s}`` in its path, which stands for the scale.
        scales: whole factors.
        rule: "published" or "double", see :func:`data.imresize.downscale`.
        template: name without extension; ``{}`` stands for the high-resolution one's, ``{s}`` for the scale.
        cropped: the same for the cropped high-resolution images; None: not written.
        skip_bad: leave out images that cannot be used.

    Returns:
        Number of files, and what was left out.

    Raises:
        InputError: an image cannot be read or is smaller than a low-resolution pixel.
        StorageError: the disk is full.
    """
    files = list_images(source)
    skipper = Skipper(skip_bad)

    def make(path: Path) -> int:
        smalls = [
            _folder(target, s) / f"{template.replace('{s}', str(s)).replace('{}', path.stem)}.png" for s in scales
        ]
        larges = [] if cropped is None else [_folder(cropped, s) / f"{path.stem}.png" for s in scales]
        if not is_done([*smalls, *larges], path):
            image = decode_image(read_bytes(path), str(path), keep_grey=True)
            for i, scale in enumerate(scales):
                large = mod_crop(image, scale)
                if not large.size:
                    raise InputError(f"{path}: the image is {size_text(image)}, smaller than one pixel at x{scale}")
                write_picture(smalls[i], downscale(large, scale, rule=rule))
                if larges:
                    write_picture(larges[i], np.ascontiguousarray(large))
        return len(smalls)

    guarded = skipper.usable(make)
    counts = in_threads(lambda i: guarded(files[i]), range(len(files)), "downscaling")
    for scale in scales:
        for parent in filter(None, (target, cropped)):
            with settled(_folder(parent, scale)):
                pass
    return sum(count or 0 for count in counts), skipper.messages


def _folder(parent: Path, scale: int) -> Path:
    text = str(parent)
    return Path(text.replace("{s}", str(scale))) if "{s}" in text else parent / f"X{scale}"
