"""What the path of a file of a benchmark archive means: of which set, which image, high or low resolution, what factor.

Known are, with any folders around them (S is the factor):

    Set5/image_SRF_S/img_001_SRF_S_HR.png    ..._LR.png     SelfExSR; other endings are results of methods
    Set5/HR/baby.png                         Set5/LR_bicubic/XS/babyxS.png        EDSR's benchmark
    Manga109/HR/NAME.png                     Manga109/LR_bicubic/XS/NAME_LRBI_xS.png
    Set5/GTmod12/baby.png                    Set5/LRbicxS/baby.png                BasicSR, HAT
    HR/Set5/xS/baby.png                      LR/LRBI/Set5/xS/baby.png             PFT
    HR/Set5/xS/baby_HR_xS.png                LR/LRBI/Set5/xS/baby_LRBI_xS.png     RCAN
    Set5/xS/HR/baby.png                      Set5/xS/LR/baby.png                  this project
    Set5/baby.png, Set5/baby_GT.bmp          high resolution alone
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from data.images.kinds import is_picture_name

SETS: Mapping[str, int] = {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100, "Manga109": 109}
"""Name -> number of images."""

_NAMES = {
    "set5": "Set5", "set14": "Set14", "b100": "B100", "bsd100": "B100", "bsds100": "B100", "urban100": "Urban100",
    "manga109": "Manga109",
}  # fmt: skip
_SELF_EX = re.compile(r"(.+)_SRF_(\d+)_(.+)", re.IGNORECASE)
_MARKED = re.compile(r"(.+?)_(HR|GT|LRBI|LR)(?:_?x(\d+))?", re.IGNORECASE)
_FACTOR = re.compile(r"(?:image_SRF_|x)(\d+)", re.IGNORECASE)
_HIGH = re.compile(r"(?:HR|GT|original|GTmod(\d+)|HR_?x(\d+))", re.IGNORECASE)
_LOW = re.compile(r"(?:LR|LRBI|LR_?bicubic|LR_?bicx?(\d+)|LR_?x(\d+))", re.IGNORECASE)
# Other degradations, and results instead of inputs.
_OTHER = re.compile(
    r"(?:LRBD|LRDN|LRblur|LR_?unknown|LR_?mild|LR_?difficult|bicubic|results?|SR|__MACOSX)", re.IGNORECASE
)


class Guess(NamedTuple):
    """What a file is.

    Attributes:
        dataset: one of ``SETS``.
        image: name that is the same for all files of an image.
        low: whether it is of low resolution.
        scale: the factor; None: a high-resolution image for any.
    """

    dataset: str
    image: str
    low: bool
    scale: int | None


def guess(path: PurePosixPath) -> Guess | None:
    """What a file is, or None if it is none of a benchmark's; archives count as folders of the path."""
    *folders, _ = path.parts
    dataset = next((name for name in map(_dataset, reversed(folders)) if name), None)
    hidden = any(part.startswith(".") for part in path.parts)
    if dataset is None or hidden or not is_picture_name(path.name):
        return None
    if any(_OTHER.fullmatch(folder) for folder in folders):
        return None
    low, scale = _by_folders(folders)
    stem = path.stem
    if match := _SELF_EX.fullmatch(stem):
        if match[3].upper() not in ("HR", "LR"):
            return None
        return Guess(dataset, match[1], match[3].upper() == "LR", int(match[2]))
    if match := _MARKED.fullmatch(stem):
        stem, low = match[1], match[2].upper().startswith("LR")
        scale = int(match[3]) if match[3] else scale
    elif low and (match := re.fullmatch(rf"(.+?)_?x{scale or r'(?:[2-9])'}", stem, re.IGNORECASE)):
        scale = scale or int(stem[-1])
        stem = match[1]
    return Guess(dataset, stem, low, scale)


def _dataset(folder: str) -> str | None:
    """The set that a folder or an archive is named after."""
    words = re.sub(r"(?:\.(?:zip|tar|tgz|gz|xz|bz2))+$", "", folder.lower())
    plain = words.replace("-", "").replace("_", "").replace(" ", "")
    if plain in _NAMES:
        return _NAMES[plain]
    parts = {_NAMES[word] for word in re.split(r"[-_ ]", words) if word in _NAMES}  # "Urban100_HR", "SR-Set5"
    return parts.pop() if len(parts) == 1 else None


def _by_folders(folders: list[str]) -> tuple[bool, int | None]:
    """Whether the folders speak of low resolution, and of which factor."""
    low, scale = False, None
    for folder in folders:
        if match := _FACTOR.fullmatch(folder):
            scale = int(match[1])
        elif match := _LOW.fullmatch(folder):
            low = True
            scale = int(match[1] or match[2]) if match[1] or match[2] else scale
        elif match := _HIGH.fullmatch(folder):
            low = False
            scale = int(match[2]) if match[2] else scale  # GTmod12 serves every factor that its sizes fit
    return low, scale
