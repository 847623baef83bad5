"""Pictures, animations and pages to files: how each kind of file is encoded, and what is lost.

PNG files are written by :mod:`data.images.png_stream`, BMP by :mod:`data.images.bmp`, TIFF by tifffile, the other kinds
by Pillow. What
a PNG file carries is added here, as chunks.

Shapes: H W pixels, C channels.
"""

from __future__ import annotations

import io
import itertools
import math
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.images import png
from data.images.bmp import write_bmp
from data.images.fitting import eight_bits, fitted
from data.images.frames import Frames, Sort, Timing
from data.images.metadata import texts_of_exif
from data.images.output_kinds import Encoding, OutputKind, output_kind
from data.images.photo import Photo
from data.images.pillow import patient_pillow
from data.images.png_stream import write_png
from utils.files import atomic_write

if TYPE_CHECKING:
    from PIL import Image as Pillow

_USUAL = Encoding()
_JPEG_QUALITY, _OTHER_QUALITY = 95, 90
_FULL_COLOUR = 90  # quality from which on every pixel of a JPEG or AVIF file keeps its own colour
_XMP_OF_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_OF_TIFF = 700  # tag
_BYTES, _ASCII = 1, 2  # types of tags
_LONGEST_OF_GIF = 655_350  # milliseconds that a frame is shown
_SAMPLE = 1 << 22  # pixels of which a palette is made: choosing colours takes eight bytes of each
_CLASSIC_TIFF = 3 << 30  # bytes of pixels for which offsets of 32 bits surely suffice


class Losses(NamedTuple):
    """What a file does not have of the picture or pictures it was made of.

    Attributes:
        dropped: what its kind cannot hold.
        lost: what had not been read.
    """

    dropped: tuple[str, ...]
    lost: tuple[str, ...] = ()


def pictures_held(path: Path, sort: Sort, count: int) -> int:
    """How many of ``count`` pictures a file of this name can hold."""
    return count if _held_as(output_kind(path), sort, count) else 1


def write_photo(path: Path, photo: Photo, encoding: Encoding = _USUAL) -> tuple[str, ...]:
    """Write a picture as the kind of file that the suffix names; all or nothing.

    Returns:
        What this kind of file cannot hold of it, such as "transparency".

    Raises:
        ValueError: the suffix names no known kind of image.
        StorageError: the disk is full or the folder cannot be written.
    """
    kind = output_kind(path)
    photo, dropped = fitted(kind, photo)
    with atomic_write(path) as file:
        _write(file, kind, photo, encoding)
    return dropped


def write_frames(path: Path, photos: Iterable[Photo], frames: Frames, encoding: Encoding = _USUAL) -> Losses:
    """Write the pictures that were made of those of a file; all or nothing.

    Args:
        path: its suffix names the kind of file.
        photos: read as they are needed, :func:`pictures_held` of them; frames of an animation have one size.
        frames: the file they were made of.
        encoding: settings of the kind of file.

    Raises:
        ValueError: the suffix names no known kind of image.
        StorageError: the disk is full or the folder cannot be written.
    """
    kind = output_kind(path)
    how = _held_as(kind, frames.sort, frames.count)
    dropped: dict[str, None] = {}
    lost: dict[str, None] = {}

    def fitting() -> Iterator[Photo]:
        for photo in photos:
            held, without = fitted(kind, photo)
            dropped.update(dict.fromkeys(without))
            lost.update(dict.fromkeys(photo.lost))
            del photo  # its memory, which may be twice that of what is held
            yield held

    pictures = fitting()
    first = next(pictures)  # before the file: a failure leaves no trace
    with atomic_write(path) as file:
        if how is None:
            _write(file, kind, first, encoding)
        elif how == "pages":
            _tiff(file, first, pictures, frames.count, encoding)
        else:
            assert frames.timing is not None
            _animation(file, kind, first, pictures, frames.timing, encoding)
    return Losses((*dropped, *_timing_lost(kind, frames)), tuple(lost))


def _held_as(kind: OutputKind, sort: Sort, count: int) -> Literal["animation", "pages"] | None:
    """How the pictures of a file with several are held by this kind; None: only the first is."""
    if sort == "animation" and "animation" in kind.holds:
        return "animation"
    return "pages" if count > 1 and "pages" in kind.holds else None


def _timing_lost(kind: OutputKind, frames: Frames) -> list[str]:
    if frames.count == 1:
        return []
    how = _held_as(kind, frames.sort, frames.count)
    if how is None:
        name = "page" if frames.sort == "pages" else "frame"
        return [f"{name} 2" if frames.count == 2 else f"{name}s 2 to {frames.count}"]
    if frames.timing is None:
        return []
    if how == "pages":
        return ["durations of the frames"]
    lost = []
    if kind.name == "GIF" and any(duration % 10 for duration in frames.timing.durations):
        lost.append("durations finer than 10 ms")
    if kind.name == "GIF" and max(frames.timing.durations) > _LONGEST_OF_GIF:
        lost.append("durations beyond 655 s")
    if frames.timing.plays and "plays" not in kind.holds:
        lost.append("number of plays")
    return lost


def _write(file: BinaryIO, kind: OutputKind, photo: Photo, encoding: Encoding) -> None:
    """One picture that fits the kind."""
    if kind.name == "PNG":
        _png(file, photo, encoding, _chunks(photo))
    elif kind.name == "BMP":
        write_bmp(file, eight_bits(photo.pixels), photo.dpi)
    elif kind.name == "TIFF":
        _tiff(file, photo, (), 1, encoding)
    elif kind.name == "GIF":
        _gif(file, photo, (), None)
    else:
        image = _pillow(photo)
        image.save(file, kind.name, **_notes(kind, photo), **_settings(kind, encoding))


def _animation(
    file: BinaryIO, kind: OutputKind, first: Photo, others: Iterable[Photo], timing: Timing, encoding: Encoding
) -> None:
    """Frames that fit the kind, one after the other."""
    if kind.name == "GIF":
        _gif(file, first, others, timing)
    elif kind.name == "PNG":
        frames = (_png_bytes(photo, encoding) for photo in itertools.chain([first], others))
        png.write_animation(file, frames, timing.durations, timing.plays, _chunks(first))
    else:
        _by_way_of_png(file, kind, first, others, timing, encoding)


def _by_way_of_png(
    file: BinaryIO, kind: OutputKind, first: Photo, others: Iterable[Photo], timing: Timing, encoding: Encoding
) -> None:
    """An animation by Pillow, which wants all frames at once: it gets them from a file."""
    from PIL import Image

    how = {**_notes(kind, first), **_settings(kind, encoding), "duration": [round(item) for item in timing.durations]}
    if "plays" in kind.holds:
        how["loop"] = timing.plays
    with tempfile.TemporaryFile(dir=Path(file.name).parent) as between:
        frames = (_png_bytes(photo, _USUAL) for photo in itertools.chain([first], others))
        png.write_animation(between, frames, timing.durations, timing.plays, [])
        between.seek(0)
        with patient_pillow(), Image.open(between) as image:
            image.save(file, kind.name, save_all=True, **how)


def _png(file: BinaryIO, photo: Photo, encoding: Encoding, added: Iterable[png.Chunk]) -> None:
    """A PNG file with chunks behind its head."""
    planes = [photo.pixels] if photo.alpha is None else [photo.pixels, photo.alpha]
    write_png(file, planes, b"".join(chunk.packed() for chunk in added), encoding.compression)


def _png_bytes(photo: Photo, encoding: Encoding) -> memoryview:
    """A PNG file without anything but pixels."""
    stream = io.BytesIO()
    _png(stream, photo, encoding, [])
    return stream.getbuffer()


def _chunks(photo: Photo) -> list[png.Chunk]:
    """What a PNG file carries besides the pixels."""
    added = [] if photo.profile is None else [png.profile_chunk(photo.profile)]
    added.extend(photo.colour)
    if photo.dpi is not None:
        added.append(png.dpi_chunk(photo.dpi))
    if photo.exif is not None:
        added.append(png.Chunk(b"eXIf", photo.exif))
    if photo.xmp is not None:
        added.append(png.xmp_chunk(photo.xmp))
    return [*added, *photo.texts]


def _tiff(file: BinaryIO, first: Photo, others: Iterable[Photo], count: int, encoding: Encoding) -> None:
    """``count`` pages, as they come."""
    import tifffile

    level = encoding.compression
    big = count * first.pixels.nbytes * 4 / 3 > _CLASSIC_TIFF
    with tifffile.TiffWriter(file, bigtiff=big) as writer:
        for photo in itertools.chain([first], others):
            pixels: NDArray[Any] = photo.pixels
            if photo.alpha is not None:
                pixels = np.concatenate([pixels, photo.alpha], axis=2)
            channels = pixels.shape[2]
            tags: list[Any] = [] if photo.xmp is None else [(_XMP_OF_TIFF, _BYTES, len(photo.xmp), photo.xmp, True)]
            tags += [(tag, _ASCII, None, text, True) for tag, text in texts_of_exif(photo.exif)[0].items()]
            writer.write(
                pixels if channels > 1 else pixels[..., 0],
                photometric="rgb" if channels > 1 else "minisblack",
                extrasamples=["unassalpha"] if channels == 4 else None,
                compression=None if level == 0 else "zlib",
                compressionargs=None if not level else {"level": level},
                iccprofile=photo.profile,
                resolution=photo.dpi,
                resolutionunit=None if photo.dpi is None else "INCH",
                extratags=tags,
                metadata=None,
                software=False,
            )


def _gif(file: BinaryIO, first: Photo, others: Iterable[Photo], timing: Timing | None) -> None:
    """One picture or an animation with 256 colours each."""
    how: dict[str, Any] = {}
    if timing is not None:
        how = {"duration": [min(round(duration / 10) * 10, _LONGEST_OF_GIF) for duration in timing.durations]}
        if timing.plays != 1:
            how["loop"] = min(max(0, timing.plays - 1), 65535)  # how often it is repeated; 0: for ever
        how |= {"save_all": True, "append_images": map(_with_palette, others)}
        if first.alpha is not None:
            how["disposal"] = 2  # a frame is seen by itself
    comment = png.comment_of(first.texts)
    if comment:
        how["comment"] = comment
    _with_palette(first).save(file, "GIF", optimize=False, **how)


def _with_palette(photo: Photo) -> Pillow.Image:
    """A picture of 256 colours, the last of which is transparency where there is some; error diffusion between them."""
    from PIL import Image

    clear = None if photo.alpha is None else photo.alpha[..., 0] < (photo.top + 1) // 2
    image = _pillow(photo, alpha=False)
    image = image if image.mode == "RGB" else image.convert("RGB")
    most = 256 if clear is None else 255
    if image.getcolors(most) is not None:
        result = image.quantize(most, Image.Quantize.MEDIANCUT)
    else:
        step = math.ceil(math.sqrt(image.width * image.height / _SAMPLE))
        few = (
            image if step == 1 else image.resize((image.width // step, image.height // step), Image.Resampling.NEAREST)
        )
        chosen = few.quantize(most, Image.Quantize.MEDIANCUT)
        result = image.quantize(palette=chosen, dither=Image.Dither.FLOYDSTEINBERG)
    if clear is None:
        return result
    levels = np.array(result)
    levels[clear] = 255
    palette = (result.getpalette() or [])[: 3 * 255]
    result = Image.fromarray(levels)
    result.putpalette(palette + [0] * (3 * 256 - len(palette)))
    result.info["transparency"] = 255
    return result


def _pillow(photo: Photo, *, alpha: bool = True) -> Pillow.Image:
    from PIL import Image

    pixels: NDArray[Any] = photo.pixels
    if photo.alpha is not None and alpha:
        pixels = np.concatenate([pixels, photo.alpha], axis=2)
    return Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])


def _notes(kind: OutputKind, photo: Photo) -> dict[str, Any]:
    """What Pillow is to add to a file."""
    notes: dict[str, Any] = {"icc_profile": photo.profile}
    if photo.exif is not None:
        notes["exif"] = b"Exif\0\0" + photo.exif
    if kind.name != "JPEG":
        return notes if photo.xmp is None else {**notes, "xmp": photo.xmp}
    if photo.dpi is not None:
        notes["dpi"] = tuple(round(value) for value in photo.dpi)
    segments = [] if photo.xmp is None else [(0xE1, _XMP_OF_JPEG + photo.xmp)]
    comment = png.comment_of(photo.texts)
    if comment:
        segments.append((0xFE, comment))
    notes["extra"] = b"".join(struct.pack(">BBH", 0xFF, mark, len(text) + 2) + text for mark, text in segments)
    return notes


def _settings(kind: OutputKind, encoding: Encoding) -> dict[str, Any]:
    """What Pillow is told about the encoding."""
    quality = encoding.quality
    if kind.name in ("WEBP", "JXL") and (encoding.lossless or (quality is None and kind.name == "WEBP")):
        return {"lossless": True, "exact": True} if kind.name == "WEBP" else {"lossless": True}
    if quality is None:
        quality = _JPEG_QUALITY if kind.name == "JPEG" else _OTHER_QUALITY
    if kind.name == "JPEG":
        return {"quality": quality, "subsampling": 0 if quality >= _FULL_COLOUR else 2}
    if kind.name == "AVIF":
        return {"quality": quality, "subsampling": "4:4:4" if quality >= _FULL_COLOUR else "4:2:0"}
    return {"quality": quality}
