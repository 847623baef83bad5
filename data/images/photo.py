"""Image files with all that they carry: 8 or 16 bits, grey, transparency, colour profile, notes of the camera.

OpenCV decodes all kinds and writes BMP, but knows no metadata. Pillow reads these, and writes JPEG and WebP; it has no
colour of 16 bits, so TIFF is left to tifffile, and PNG to :mod:`data.images.png_stream`. Both libraries come with
scikit-image and are imported when they are needed.

Shapes: H W pixels, C channels.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from data.images.files import SUFFIXES, encode_image, opencv_pixels, read_bytes
from data.images.head import MAX_PIXELS, check_pixels
from data.images.pillow import patient_pillow
from data.images.png_stream import packed_chunk, write_png
from utils.errors import InputError
from utils.files import atomic_write

Levels = NDArray[np.uint8] | NDArray[np.uint16]

_ORIENTATION, _CAMERA, _WIDTH, _HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003  # EXIF tags
_JPEG_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Photo:
    """A picture, upright.

    Attributes:
        pixels: uint8 or uint16, [H, W, 3] R G B, or [H, W, 1] grey where there is no ``alpha``.
        alpha: opacity, [H, W, 1] of the same type, or None where there is no such channel.
        profile: ICC profile, or None.
        exif: EXIF block without its six leading letters, or None. It says that the picture is upright.
    """

    pixels: Levels
    alpha: Levels | None = None
    profile: bytes | None = None
    exif: bytes | None = None

    @property
    def top(self) -> int:
        """The level of white, and of full opacity: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)


class _Notes(NamedTuple):
    """What OpenCV does not tell about a file."""

    orientation: int = 1
    profile: bytes | None = None
    exif: bytes | None = None


def read_photo(path: Path, max_pixels: int = MAX_PIXELS) -> Photo:
    """A picture with its transparency, depth, profile and EXIF block, turned upright.

    A profile of another colour space than the pixels' (CMYK files become R G B) is left out.

    Args:
        path: of the file.
        max_pixels: larger pictures are not decoded.

    Raises:
        InputError: the file is missing, unreadable, no image, cut short, of more than 16 bits, or of too many pixels.
    """
    data = read_bytes(path)
    check_pixels(data, str(path), max_pixels)
    decoded = opencv_pixels(data, str(path), cv2.IMREAD_UNCHANGED)
    if decoded.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: holds values of type {decoded.dtype}; save it with 8 or 16 bits per channel")
    notes = _notes(data)
    tiff = data[:4] in (b"II*\0", b"MM\0*")
    if tiff and decoded.dtype == np.uint8 and decoded.shape[2:] == (4,):
        decoded = _upright(_straight(data), notes.orientation)
    elif not tiff:  # of TIFF files alone OpenCV applies the tag in every mode
        decoded = _upright(decoded, notes.orientation)
    decoded = decoded if decoded.ndim == 3 else decoded[..., None]
    channels = decoded.shape[2]
    pixels = decoded if channels == 1 else decoded[..., 2::-1]
    alpha = decoded[..., 3:] if channels == 4 else None
    space = b"GRAY" if channels == 1 else b"RGB "
    profile = notes.profile if notes.profile and notes.profile[16:20] == space else None
    return Photo(
        np.ascontiguousarray(pixels),
        None if alpha is None else np.ascontiguousarray(alpha),
        profile,
        None if tiff else notes.exif,  # the tags of a TIFF file describe its layout
    )


def write_photo(path: Path, photo: Photo) -> tuple[str, ...]:
    """Write a picture as the kind of file that the suffix names; all or nothing. JPEG has quality 95.

    Returns:
        What this kind of file cannot hold of it, such as "transparency".

    Raises:
        ValueError: the suffix names no known kind of image.
        StorageError: the disk is full or the folder cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f'{path}: "{path.suffix}" is no known kind of image; use one of {", ".join(SUFFIXES)}')
    photo, dropped = _fitting(suffix, photo)
    with atomic_write(path) as file:
        if suffix == ".png":
            planes = [photo.pixels] if photo.alpha is None else [photo.pixels, photo.alpha]
            write_png(file, planes, _chunks(photo.profile, photo.exif))
        else:
            file.write(_encoded(suffix, photo))
    return dropped


def picture_size(path: Path) -> tuple[int, int] | None:
    """(height, width) from the head of a file, orientation ignored; None where it cannot be told without decoding."""
    from PIL import Image

    try:
        with patient_pillow(), Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError):
        return None


def _fitting(suffix: str, photo: Photo) -> tuple[Photo, tuple[str, ...]]:
    """The picture without what a kind of file cannot hold, and the names of that."""
    changes: dict[str, Any] = {}
    dropped = []
    if photo.pixels.dtype == np.uint16 and suffix not in (".png", ".tif", ".tiff"):
        dropped.append("the lower 8 of 16 bits")
        changes["pixels"] = _eight_bits(photo.pixels)
        changes["alpha"] = None if photo.alpha is None else _eight_bits(photo.alpha)
    if photo.alpha is not None and suffix in (".jpg", ".jpeg", ".bmp"):
        if photo.alpha.min() < photo.top:
            dropped.append("transparency")
        changes["alpha"] = None
    if photo.profile is not None and suffix == ".bmp":
        dropped.append("colour profile")
        changes["profile"] = None
    if photo.exif is not None and suffix in (".bmp", ".tif", ".tiff"):
        dropped.append("EXIF")
        changes["exif"] = None
    return dataclasses.replace(photo, **changes), tuple(dropped)


def _eight_bits(levels: Levels) -> NDArray[np.uint8]:
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _encoded(suffix: str, photo: Photo) -> bytes:
    pixels = photo.pixels
    if photo.alpha is not None:
        pixels = np.concatenate([pixels, photo.alpha], axis=2)
    if suffix == ".bmp":
        return encode_image(suffix, pixels)
    if suffix in (".tif", ".tiff"):
        return _tiff(pixels, photo.profile)
    return _by_pillow("WEBP" if suffix == ".webp" else "JPEG", pixels, photo)


def _chunks(profile: bytes | None, exif: bytes | None) -> bytes:
    """What a PNG file carries besides its pixels."""
    added = b""
    if profile is not None:
        added += packed_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    if exif is not None:
        added += packed_chunk(b"eXIf", exif)
    return added


def _tiff(pixels: Levels, profile: bytes | None) -> bytes:
    import tifffile

    stream = io.BytesIO()
    channels = pixels.shape[2]
    tifffile.imwrite(
        stream,
        pixels if channels > 1 else pixels[..., 0],
        photometric="rgb" if channels > 1 else "minisblack",
        extrasamples=["unassalpha"] if channels == 4 else None,
        compression="zlib",
        iccprofile=profile,
        metadata=None,
    )
    return stream.getvalue()


def _by_pillow(kind: str, pixels: Levels, photo: Photo) -> bytes:
    from PIL import Image

    image = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])
    how: dict[str, Any] = (
        {"lossless": True, "exact": True} if kind == "WEBP" else {"quality": _JPEG_QUALITY, "subsampling": 0}
    )
    exif = b"" if photo.exif is None else b"Exif\0\0" + photo.exif
    stream = io.BytesIO()
    image.save(stream, kind, icc_profile=photo.profile, exif=exif, **how)
    return stream.getvalue()


def _notes(data: bytes) -> _Notes:
    """Orientation, profile and EXIF block of a file; what is damaged counts as absent."""
    from PIL import Image

    try:
        with patient_pillow(), Image.open(io.BytesIO(data)) as image:
            profile = image.info.get("icc_profile")
            exif = image.getexif()
            orientation = exif.get(_ORIENTATION, 1)
            block = None
            if exif:
                exif[_ORIENTATION] = 1
                for tag in (_WIDTH, _HEIGHT):  # of the picture before it was upscaled
                    exif.get_ifd(_CAMERA).pop(tag, None)
                block = exif.tobytes().removeprefix(b"Exif\0\0")
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        # A kind that Pillow does not know, or notes that do not follow the format: the picture itself was decoded.
        return _Notes()
    return _Notes(orientation if orientation in range(1, 9) else 1, profile or None, block)


def _straight(data: bytes) -> NDArray[np.uint8]:
    """The pixels of a TIFF file, [H, W, 4] B G R and opacity: OpenCV multiplies colours of 8 bits by the opacity."""
    from PIL import Image

    with patient_pillow(), Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA"))[..., [2, 1, 0, 3]]


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The stored pixels [H, W] or [H, W, C] turned as the EXIF tag ``orientation``, 1 .. 8, asks."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(pixels, flips) if flips else pixels
