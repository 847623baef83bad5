"""Small copies of pictures within a page, and full ones beside it.

Shapes: pictures are uint8 [H, W, 3] in R G B.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
from numpy.typing import NDArray

from data.images.files import decode_image, encode_image, opencv_file, read_bytes
from utils.files import atomic_write

Pixels = NDArray[np.uint8]

_LOSSLESS = 101  # OpenCV's quality of WebP without loss
# Quality and bytes per pixel of a photograph, a first guess that saves most of the attempts.
_QUALITIES = ((95, 0.25), (85, 0.12))
_REDUCED = 0.22  # bytes per pixel where it is reduced
_CROP_QUALITIES = ((_LOSSLESS, 1.0), (95, 0.45), (85, 0.25), (70, 0.0))
_ATTEMPTS = 4
_SMALLEST = 32  # pixels of a side
_TEXT = 4 / 3  # length of bytes as base64


def webp(pixels: Pixels, quality: int) -> bytes:
    """A picture as WebP; without loss where ``quality`` exceeds 100."""
    return opencv_file(".webp", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, quality])


def data_uri(content: bytes, kind: str = "webp") -> str:
    """The bytes of a picture as a source within a page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnails(pictures: Sequence[Pixels], most: int, largest: int) -> list[str]:
    """Pictures as data URIs, all reduced by one factor.

    Args:
        pictures: of one image; those smaller than the largest of them are only reduced to its reduced size.
        most: characters of all data URIs together; kept within, unless sides would get too small.
        largest: pixels of a side.
    """
    longest = max(max(picture.shape[:2]) for picture in pictures)
    pixels = sum(picture.shape[0] * picture.shape[1] for picture in pictures)
    most = max(1, most)
    room = most / _TEXT
    whole = pixels * min(1.0, largest / longest) ** 2
    side = min(longest, largest)
    made: list[str] = []
    for quality, each in _QUALITIES:
        if each * whole <= room:
            made = _encoded(pictures, side, quality)
            if sum(map(len, made)) <= most:
                return made
    for _ in range(_ATTEMPTS):
        # From what was too large, else from the guess.
        excess = sum(map(len, made)) / most if made else _REDUCED * whole / room
        side = max(_SMALLEST, int(side * 0.95 / math.sqrt(max(1.0, excess))))
        made = _encoded(pictures, side, quality)
        if sum(map(len, made)) <= most or side == _SMALLEST:
            break
    return made


def _encoded(pictures: Sequence[Pixels], side: int, quality: int) -> list[str]:
    return [data_uri(webp(_reduced(picture, side), quality)) for picture in pictures]


def crops(parts: Sequence[Pixels], most: int) -> list[str]:
    """Parts of pictures as data URIs, without loss where they have no more than ``most`` characters together."""
    pixels = sum(part.shape[0] * part.shape[1] for part in parts)
    made: list[str] = []
    for quality, each in _CROP_QUALITIES:
        if each * pixels * _TEXT <= most:
            made = [data_uri(webp(part, quality)) for part in parts]
            if sum(map(len, made)) <= most:
                break
    return made


def figure(file: Path, most: int, largest: int = 1600) -> str:
    """A picture of an analysis as a data URI: the file itself where it is small, else a reduced copy.

    Raises:
        InputError: it is no picture, or cannot be read.
    """
    content = read_bytes(file)
    pixels = decode_image(content, str(file))
    if len(content) * _TEXT <= most and file.suffix.lower() == ".png":
        return data_uri(content, "png")
    return thumbnails([pixels], most, largest)[0]


def _reduced(picture: Pixels, side: int) -> Pixels:
    """A picture whose longer side has at most ``side`` pixels; each is the mean of those that it replaces."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


class FullPictures:
    """Full pictures in a folder beside a page.

    Args:
        folder: theirs.
        page: the folder of the page.
    """

    def __init__(self, folder: Path, page: Path) -> None:
        self.folder, self.page = folder, page

    def write(self, picture: Sequence[object], label: str, content: Path | Pixels) -> str:
        """Write one; returns its path as the page names it.

        Args:
            picture: what tells the image from others; the first part is its number.
            label: of the panel.
            content: a file to copy, or pixels.
        """
        name = "_".join(_plain(str(part)) for part in picture)
        suffix = content.suffix.lower() if isinstance(content, Path) else ".png"
        target = self.folder / name / f"{_plain(label)}{suffix}"
        data = read_bytes(content) if isinstance(content, Path) else encode_image(".png", content)
        with atomic_write(target) as file:
            file.write(data)
        return quote(target.relative_to(self.page).as_posix())


def _plain(text: str) -> str:
    """A text as part of a file name on any system."""
    return re.sub(r"[^\w.-]+", "_", text).strip(".")[:100] or "_"
