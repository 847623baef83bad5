"""All pictures of a file: the frames of an animation (GIF, APNG, WebP, AVIF), the pages of a TIFF file.

Frames are read one after the other, so that the memory holds one. Each is whole, as it is seen: what a frame keeps of
the one before it is resolved.
"""

from __future__ import annotations

import dataclasses
import io
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data.images.depth import white_level
from data.images.files import read_bytes
from data.images.head import MAX_PIXELS, check_pixels
from data.images.integrity import DAMAGE_ERRORS, damage
from data.images.metadata import read_metadata
from data.images.photo import Photo, decode_photo, photo_of
from data.images.pillow import levels_of, mode_of, patient_pillow
from data.images.tiff import as_first, find_pages, is_tiff
from utils.errors import InputError
from utils.reading import open_regular

if TYPE_CHECKING:
    from PIL import Image as Pillow

Sort = Literal["picture", "animation", "pages"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """How an animation is shown.

    Attributes:
        durations: of each frame, in milliseconds.
        plays: how often; 0: for ever.
    """

    durations: tuple[float, ...]
    plays: int = 0


@dataclasses.dataclass(frozen=True)
class Frames:
    """The pictures of a file; iterating reads them.

    Attributes:
        name: of the file, for messages.
        sort: one picture, an animation, or pages that may differ in size and depth.
        count: number of pictures.
        timing: of an animation.
    """

    name: str
    sort: Sort
    count: int
    timing: Timing | None = None
    _data: bytes = b""
    _max_pixels: int = MAX_PIXELS
    _places: tuple[int, ...] = ()  # of the pages of a TIFF file
    _first: int = 0  # frame of an animation, as Pillow counts
    _mode: str = "RGB"  # of the frames of an animation
    _lost: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Photo]:
        """The pictures, read one after the other.

        Raises:
            InputError: one of them is damaged, or has more than 16 bits.
        """
        if self.sort == "picture":
            photo = decode_photo(self._data, self.name, self._max_pixels)
            yield dataclasses.replace(photo, lost=(*photo.lost, *self._lost))
        elif self.sort == "pages":
            for number, place in enumerate(self._places, 1):
                photo = decode_photo(as_first(self._data, place), f"{self.name}, page {number}", self._max_pixels)
                yield dataclasses.replace(photo, lost=(*photo.lost, *self._lost))
        else:
            yield from self._animation()

    def _animation(self) -> Iterator[Photo]:
        from PIL import Image

        metadata = read_metadata(self._data)
        metadata = dataclasses.replace(metadata, lost=(*metadata.lost, *self._lost))
        with patient_pillow(), Image.open(io.BytesIO(self._data)) as image:
            for number in range(self.count):
                try:
                    image.seek(self._first + number)
                    levels = levels_of(image, self._mode)
                except DAMAGE_ERRORS as error:
                    raise _unreadable(f"{self.name}, frame {number + 1}", error) from error
                yield photo_of(*levels, metadata)


def open_frames(path: Path, max_pixels: int = MAX_PIXELS) -> Frames:
    """The pictures of a file.

    Raises:
        InputError: the file is missing, unreadable, no image, cut short, or of more pixels than ``max_pixels``.
    """
    data, name = read_bytes(path), str(path)
    check_pixels(data, name, max_pixels)
    if is_tiff(data):
        pages = find_pages(data)
        lost = (f"reduced copies or masks ({pages.others})",) if pages.others else ()
        several = len(pages.places) > 1
        count = max(1, len(pages.places))
        return Frames(name, "pages" if several else "picture", count, None, data, max_pixels, pages.places, _lost=lost)
    found = None if damage(data) else _animation(data, name)
    return found or Frames(name, "picture", 1, _data=data, _max_pixels=max_pixels)


def look_at(path: Path) -> tuple[Sort, int]:
    """Which pictures a file holds, and their number, without decoding it; one picture where that cannot be told."""
    from PIL import Image

    try:
        with open_regular(path) as file:
            if is_tiff(file.read(4)):
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    pages = len(find_pages(data).places)
                return ("pages", pages) if pages > 1 else ("picture", 1)
            with patient_pillow(), Image.open(file) as image:
                count = _count(image)
    except DAMAGE_ERRORS:  # whoever reads the picture will say so
        return "picture", 1
    return ("animation", count) if count > 1 else ("picture", 1)


def _animation(data: bytes, name: str) -> Frames | None:
    """The frames of an animation, looked through once for their durations; None: the file holds one picture."""
    from PIL import Image

    durations: list[float] = []
    modes = set()
    try:
        with patient_pillow(), Image.open(io.BytesIO(data)) as image:
            count, kind, first = _count(image), image.format or "", _first(image)
            if count < 2:
                return None
            plays, size = _plays(kind, image.info.get("loop")), image.size
            for number in range(first, first + count):
                image.seek(number)
                image.load()
                if image.size != size:  # a part of a GIF frame that lies outside
                    raise ValueError("it has another size than the first")
                durations.append(float(image.info.get("duration", 0) or 0))
                mode = mode_of(image)
                modes.add("RGB" if mode == "RGBA" and _is_opaque(image) else mode)
    except DAMAGE_ERRORS as error:
        if len(durations) > 0:
            raise _unreadable(f"{name}, frame {len(durations) + 1}", error) from error
        return None
    lost = ["the picture that stands for the animation"] if first else []
    bits = (white_level(data, kind) or 255).bit_length() if kind == "AVIF" else read_metadata(data).depth
    if bits > 8:
        lost.append(f"the lower {bits - 8} of {bits} bits")
    return Frames(
        name,
        "animation",
        count,
        Timing(tuple(durations), plays),
        data,
        _first=first,
        _mode="RGBA" if "RGBA" in modes else "L" if modes == {"L"} else "RGB",
        _lost=tuple(lost),
    )


def _count(image: Pillow.Image) -> int:
    """Number of the frames of an animation; 1 for other pictures."""
    if image.format not in ("GIF", "PNG", "WEBP", "AVIF"):
        return 1
    return max(1, getattr(image, "n_frames", 1) - _first(image))


def _first(image: Pillow.Image) -> int:
    """The first frame of an animation: behind the picture for programs that show none, where there is such a one."""
    return 1 if getattr(image, "default_image", False) else 0


def _plays(kind: str, loop: int | None) -> int:
    """How often an animation is shown, of what Pillow calls "loop"; 0: for ever."""
    if kind != "GIF":
        return loop or 0
    if loop is None:
        return 1
    return loop + 1 if loop else 0  # GIF files count how often it is repeated


def _is_opaque(image: Pillow.Image) -> bool:
    return image.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def _unreadable(name: str, problem: Exception) -> InputError:
    return InputError(f"{name}: the image cannot be read: {problem}; copy it again or remove it")
