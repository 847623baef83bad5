"""What image files carry besides pixels: orientation, colour profile, EXIF, XMP, resolution, texts.

Read with Pillow and, for PNG files, from their chunks. What is damaged counts as absent.
"""

from __future__ import annotations

import dataclasses
import io
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from data.images.integrity import DAMAGE_ERRORS
from data.images.pillow import patient_pillow
from data.images.png import Chunk, is_png, read_notes, text_chunk
from data.images.tiff import is_tiff

if TYPE_CHECKING:
    from PIL import Image as Pillow

_ORIENTATION, _CAMERA, _PLACE, _WIDTH, _HEIGHT = 0x0112, 0x8769, 0x8825, 0xA002, 0xA003  # EXIF tags
# Of the tags of a TIFF file, those that tell of the picture and not of the file: description, maker, model, software,
# date, artist, copyright, and the directories of camera and place.
_TOLD = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298, _CAMERA, _PLACE)
# Those of the file, which a TIFF file has anyway: orientation, resolution, place of the colours.
_RESOLUTION, _UNIT = (0x011A, 0x011B), 0x0128
_LAYOUT = (_ORIENTATION, *_RESOLUTION, _UNIT, 0x0213)
_PROFILE, _XMP = 0x8773, 0x02BC  # tags of TIFF files
_IPTC_OF_TIFF, _IPTC_OF_PHOTOSHOP = 0x83BB, 0x0404
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))[2-8]")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a file says about its picture.

    Attributes:
        orientation: EXIF tag, 1 .. 8, that the pixels are stored by.
        profile: ICC profile, or None.
        exif: EXIF block without its six leading letters, or None. It says that the picture is upright.
        xmp: XMP packet, or None; that the picture is upright as well.
        dpi: pixels per inch, across and down, or None.
        colour: what the levels mean, as chunks of PNG files (gamma and the like).
        texts: as chunks of PNG files.
        transparent: level of a grey PNG that stands for full transparency, in the depth of the file.
        depth: bits per channel, of PNG files.
        lost: names of what is there and cannot be kept.
    """

    orientation: int = 1
    profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    colour: tuple[Chunk, ...] = ()
    texts: tuple[Chunk, ...] = ()
    transparent: int | None = None
    depth: int = 8
    lost: tuple[str, ...] = ()


def read_metadata(data: bytes) -> Metadata:
    """What the bytes of an image file say about the picture."""
    notes = read_notes(data) if is_png(data) else None
    # Pillow decodes a PNG file without EXIF as a whole, to look for it behind the pixels.
    no_exif = notes is not None and not notes.exif and not _XMP_ORIENTATION.search(notes.xmp or b"")
    try:
        with patient_pillow():
            found = _by_pillow(data, no_exif)
    except DAMAGE_ERRORS:
        # A kind that Pillow does not know, or notes that do not follow the format: the picture itself was decoded.
        found = Metadata()
        if is_tiff(data):
            with suppress(*DAMAGE_ERRORS):
                found = _by_tifffile(data)
    if notes is not None:
        found = dataclasses.replace(
            found,
            # A profile says more than a PNG file without one would be taken for.
            colour=tuple(chunk for chunk in notes.colour if found.profile is None or chunk.kind != b"sRGB"),
            texts=notes.texts,
            xmp=notes.xmp,
            dpi=notes.dpi,
            transparent=notes.transparent,
            depth=notes.depth,
        )
    return dataclasses.replace(found, xmp=found.xmp and _XMP_ORIENTATION.sub(rb"\g<1>1", found.xmp))


def _by_pillow(data: bytes, no_exif: bool) -> Metadata:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        orientation, exif = (1, None) if no_exif else _exif(image)
        info: dict[Any, Any] = image.info
        xmp = info.get("xmp")
        lost = []
        if image.format == "MPO":
            others = getattr(image, "n_frames", 2) - 1  # previews, other views, gain maps
            lost.append(f"{others} further picture{'s' if others > 1 else ''} of an MPO file")
        photoshop = info.get("photoshop")
        tags = getattr(image, "tag_v2", {})
        if (isinstance(photoshop, dict) and _IPTC_OF_PHOTOSHOP in photoshop) or _IPTC_OF_TIFF in tags:
            lost.append("IPTC")
        comment = info.get("comment")
        return Metadata(
            orientation,
            info.get("icc_profile") or None,
            exif,
            xmp.encode() if isinstance(xmp, str) else xmp or None,
            _dpi(info.get("dpi")) if _says_resolution(image) else None,
            texts=() if not comment else (text_chunk("Comment", _text(comment)),),
            lost=tuple(lost),
        )


def _by_tifffile(data: bytes) -> Metadata:
    """Of TIFF files whose pixels Pillow does not know; not the directories of camera and place."""
    import tifffile
    from PIL import Image

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = {tag.code: tag.value for tag in file.pages[0].tags}  # type: ignore[union-attr]
    exif = Image.Exif()
    for tag in _TOLD:
        if isinstance(tags.get(tag), str):
            exif[tag] = tags[tag]
    orientation = int(tags.get(_ORIENTATION, 1))
    unit = {2: 1.0, 3: 2.54}.get(int(tags.get(_UNIT, 2)), 0.0)
    resolution = [tags.get(tag, (0, 1)) for tag in _RESOLUTION]
    return Metadata(
        orientation if orientation in range(1, 9) else 1,
        tags.get(_PROFILE),
        _block(exif),
        tags.get(_XMP),
        _dpi([unit * number / (count or 1) for number, count in resolution]),
        lost=("IPTC",) if _IPTC_OF_TIFF in tags else (),
    )


def _exif(image: Pillow.Image) -> tuple[int, bytes | None]:
    exif = image.getexif()
    orientation = exif.get(_ORIENTATION, 1)
    if image.format == "TIFF":
        for tag in [tag for tag in exif if tag not in _TOLD]:
            del exif[tag]
    return orientation if orientation in range(1, 9) else 1, _block(exif)


def _block(exif: Pillow.Exif) -> bytes | None:
    """The bytes of an EXIF block that says that the picture is upright; None where it says nothing."""
    if not exif:
        return None
    exif[_ORIENTATION] = 1
    for tag in (_WIDTH, _HEIGHT):  # of the picture before it was upscaled
        exif.get_ifd(_CAMERA).pop(tag, None)
    return exif.tobytes().removeprefix(b"Exif\0\0")


def texts_of_exif(exif: bytes | None) -> tuple[dict[int, str], bool]:
    """The texts of an EXIF block that are tags of TIFF files as well, such as the maker; whether they are all of it.

    TIFF files hold texts in 7 bits; others are left out.
    """
    from PIL import Image

    if exif is None:
        return {}, True
    block = Image.Exif()
    try:
        block.load(b"Exif\0\0" + exif)
        content = dict(block)
        empty = [tag for tag in (_CAMERA, _PLACE) if not block.get_ifd(tag)]
    except DAMAGE_ERRORS:
        return {}, False
    for tag in (*_LAYOUT, *empty):
        content.pop(tag, None)
    texts = {tag: text for tag, text in content.items() if tag in _TOLD and isinstance(text, str) and text.isascii()}
    return texts, len(texts) == len(content)


def _says_resolution(image: Pillow.Image) -> bool:
    """Whether the resolution is in the file: of JPEG files with EXIF Pillow says 72 where they say nothing."""
    if image.format not in ("JPEG", "MPO"):
        return True
    return image.info.get("jfif_unit") in (1, 2) or _RESOLUTION[0] in image.getexif()


def _dpi(value: Any) -> tuple[float, float] | None:
    try:
        across, down = float(value[0]), float(value[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    # A file without a resolution says 0, 1 or nothing.
    return (across, down) if 1 < across < 65536 and 1 < down < 65536 else None


def _text(comment: bytes | str) -> str:
    if isinstance(comment, str):
        return comment
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")
