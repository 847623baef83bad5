"""Image files with all that they carry: 8 or 16 bits, grey, transparency, colour profile, notes of the camera.

OpenCV decodes all kinds but GIF and some TIFF files, and knows no metadata; Pillow reads these. Both come with
scikit-image and are imported when they are needed. Several pictures of a file: :mod:`data.images.frames`; writing:
:mod:`data.images.photo_writer`.

Shapes: H W pixels, C channels.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data.images.files import opencv_pixels, read_bytes
from data.images.head import MAX_PIXELS, check_pixels
from data.images.integrity import DAMAGE_ERRORS, damage
from data.images.metadata import Metadata, read_metadata
from data.images.pillow import levels_of, mode_of, patient_pillow
from data.images.png import Chunk
from data.images.tiff import is_tiff
from data.images.tiff_pixels import odd_pixels
from utils.errors import InputError
from utils.reading import open_regular

Levels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclasses.dataclass(frozen=True)
class Photo:
    """A picture, upright.

    Attributes:
        pixels: uint8 or uint16, [H, W, 3] R G B, or [H, W, 1] grey where there is no ``alpha``.
        alpha: opacity, [H, W, 1] of the same type, or None where there is no such channel.
        profile: ICC profile, or None.
        exif: EXIF block without its six leading letters, or None. It says that the picture is upright.
        xmp: XMP packet, or None; it says that the picture is upright as well.
        dpi: pixels per inch, across and down, or None.
        colour: what the levels mean, as chunks of PNG files (gamma and the like).
        texts: as chunks of PNG files.
        lost: names of what the file holds beyond that.
    """

    pixels: Levels
    alpha: Levels | None = None
    profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    colour: tuple[Chunk, ...] = ()
    texts: tuple[Chunk, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def top(self) -> int:
        """The level of white, and of full opacity: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)


def read_photo(path: Path, max_pixels: int = MAX_PIXELS) -> Photo:
    """The picture in a file, the first where there are several; :func:`decode_photo` says what is kept.

    Args:
        path: of the file.
        max_pixels: larger pictures are not decoded.

    Raises:
        InputError: the file is missing, unreadable, no image, cut short, of more than 16 bits, or of too many pixels.
    """
    return decode_photo(read_bytes(path), str(path), max_pixels)


def decode_photo(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Photo:
    """A picture with its transparency, depth, profile, EXIF block and other metadata, turned upright.

    A profile of another colour space than the pixels' (CMYK files become R G B) is left out.

    Args:
        data: the content of a file.
        name: says in messages where it came from.
        max_pixels: larger pictures are not decoded.

    Raises:
        InputError: it is no image, cut short, of more than 16 bits, or of too many pixels.
    """
    check_pixels(data, name, max_pixels)
    metadata = read_metadata(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return photo_of(*_by_pillow(data, name), metadata)
    odd = odd_pixels(data, name) if is_tiff(data) else None
    decoded = opencv_pixels(data, name, cv2.IMREAD_UNCHANGED) if odd is None else odd
    if decoded.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{name}: holds values of type {decoded.dtype}; save it with 8 or 16 bits per channel")
    if odd is None and is_tiff(data):  # of TIFF files alone OpenCV applies the tag in every mode
        metadata = dataclasses.replace(metadata, orientation=1)
    decoded = decoded if decoded.ndim == 3 else decoded[..., None]
    if decoded.shape[2] == 1 and metadata.transparent is not None:
        decoded = _with_opacity(decoded, metadata.transparent, metadata.depth)
    channels = decoded.shape[2]
    return photo_of(
        decoded if channels == 1 else decoded[..., 2::-1], decoded[..., 3:] if channels == 4 else None, metadata
    )


def photo_of(pixels: Levels, alpha: Levels | None, metadata: Metadata) -> Photo:
    """Pixels and opacity as they are stored, and what their file says about them, as a picture that is upright."""
    space = b"GRAY" if pixels.shape[2] == 1 else b"RGB "
    profile, lost = metadata.profile, metadata.lost
    if profile is not None and profile[16:20] != space:
        lost = (*lost, f"colour profile (of {profile[16:20].decode('latin-1').strip()})")
        profile = None
    return Photo(
        np.ascontiguousarray(_upright(pixels, metadata.orientation)),
        None if alpha is None else np.ascontiguousarray(_upright(alpha, metadata.orientation)),
        profile,
        metadata.exif,
        metadata.xmp,
        metadata.dpi,
        metadata.colour,
        metadata.texts,
        lost,
    )


def picture_size(path: Path) -> tuple[int, int] | None:
    """(height, width) from the head of a file, orientation ignored; None where it cannot be told without decoding."""
    from PIL import Image

    try:
        with patient_pillow(), open_regular(path) as file, Image.open(file) as image:
            return image.height, image.width
    except DAMAGE_ERRORS:
        return None


def _by_pillow(data: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """The first frame, and its opacity."""
    from PIL import Image

    problem: object = damage(data)
    if not problem:
        try:
            with patient_pillow(), Image.open(io.BytesIO(data)) as image:
                return levels_of(image, mode_of(image))
        except DAMAGE_ERRORS as error:
            problem = error
    raise InputError(f"{name}: the image cannot be read: {problem}; copy it again or remove it")


def _with_opacity(grey: NDArray[Any], transparent: int, depth: int) -> NDArray[Any]:
    """[H, W, 1] as it was decoded -> [H, W, 4]: one level, in the depth of the file, is transparent."""
    top = np.iinfo(grey.dtype).max
    level = transparent * int(top) // ((1 << depth) - 1)  # as decoders expand 1, 2 and 4 bits
    result = np.empty((*grey.shape[:2], 4), grey.dtype)
    result[..., :3] = grey
    result[..., 3] = np.where(grey[..., 0] == level, 0, top)
    return result


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The stored pixels [H, W] or [H, W, C] turned as the EXIF tag ``orientation``, 1 .. 8, asks."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(pixels, flips) if flips else pixels
