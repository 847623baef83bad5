"""PNG files as chunks: what they carry besides pixels, and animations (APNG).

Specification: PNG, third edition (W3C). A chunk is its kind, four letters, and its content.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from data.images.png_stream import SIGNATURE, packed_chunk

_HEAD = 33  # bytes of a file before its second chunk
_XMP = b"XML:com.adobe.xmp"
_INCH = 0.0254  # metres
_LONGEST_TEXT = 1 << 24  # bytes of an unpacked text; a file of some kilobytes can unpack to gigabytes
_MOST_DENSE = 2_500_000  # pixels of a metre; JPEG files hold 65535 of an inch
# What the levels mean, and the names of that for people. sRGB is what files without a word are taken for.
COLOUR = {
    b"gAMA": "gamma",
    b"cHRM": "chromaticities",
    b"cICP": "colour space",
    b"mDCV": "HDR data",
    b"cLLI": "HDR data",
}
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_EXIF_TEXTS = (b"Raw profile type exif", b"Raw profile type APP1")  # of ImageMagick


class Chunk(NamedTuple):
    """A part of a PNG file."""

    kind: bytes
    content: bytes

    @property
    def keyword(self) -> str:
        """The name of a text."""
        return self.content.partition(b"\0")[0].decode("latin-1")

    def packed(self) -> bytes:
        """As it stands in the file, with length and checksum."""
        return packed_chunk(self.kind, self.content)


class PngNotes(NamedTuple):
    """What a PNG file carries, as far as Pillow does not tell it in full.

    Attributes:
        colour: gAMA, cHRM, sRGB, cICP, mDCV, cLLI.
        texts: tEXt, zTXt and iTXt, without those that hold XMP or EXIF.
        xmp: XMP packet.
        dpi: pixels per inch, across and down.
        transparent: level of a grey picture that stands for full transparency, in the depth of the file.
        depth: bits per channel in the file.
        exif: whether there is an EXIF block, in a chunk of its own or in a text.
    """

    colour: tuple[Chunk, ...] = ()
    texts: tuple[Chunk, ...] = ()
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    transparent: int | None = None
    depth: int = 8
    exif: bool = False


def is_png(data: bytes) -> bool:
    """Whether the bytes begin as a PNG file does."""
    return data.startswith(SIGNATURE)


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG file that is whole, but for the pixels (IDAT, fdAT), whose content is left out."""
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        pixels = kind in (b"IDAT", b"fdAT")
        yield Chunk(kind, b"" if pixels else data[position + 8 : position + 8 + length])
        position += 12 + length
        if kind == b"IEND":
            return


def still(data: bytes) -> bytes:
    """The file without its animation: what decoders show that know none."""
    if data.find(b"acTL", 0, data.find(b"IDAT")) < 0:  # it stands in front of the pixels
        return data
    kept, position = [data[: len(SIGNATURE)]], len(SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind not in (b"acTL", b"fcTL", b"fdAT"):
            kept.append(data[position : position + 12 + length])
        position += 12 + length
    return b"".join(kept)


def read_notes(data: bytes) -> PngNotes:
    """What the chunks of a PNG file say."""
    colour, texts = [], []
    notes = PngNotes()
    grey = False
    for chunk in chunks(data):
        kind, content = chunk
        if kind == b"IHDR" and len(content) == 13:
            notes = notes._replace(depth=content[8])
            grey = content[9] == 0
        elif kind in COLOUR or kind == b"sRGB":
            colour.append(chunk)
        elif kind == b"pHYs" and len(content) == 9:
            across, down, unit = struct.unpack(">IIB", content)
            if unit == 1 and 0 < across < _MOST_DENSE and 0 < down < _MOST_DENSE:
                notes = notes._replace(dpi=(across * _INCH, down * _INCH))
        elif kind == b"tRNS" and grey and len(content) >= 2:
            notes = notes._replace(transparent=int.from_bytes(content[:2], "big"))
        elif kind == b"eXIf" or (kind in _TEXT and content.partition(b"\0")[0] in _EXIF_TEXTS):
            notes = notes._replace(exif=True)
        elif kind == b"iTXt" and content.startswith(_XMP + b"\0"):
            notes = notes._replace(xmp=_international(content))
        elif kind in _TEXT:
            texts.append(chunk)
    return notes._replace(colour=tuple(colour), texts=tuple(texts))


def _international(content: bytes) -> bytes | None:
    """The text of an iTXt chunk; None where it is damaged."""
    _, _, rest = content.partition(b"\0")
    if len(rest) < 2:
        return None
    text = rest[2:].split(b"\0", 2)[-1]
    return _unpacked(text) if rest[0] else text


def _unpacked(packed: bytes) -> bytes | None:
    """What a packed text holds; None where it is damaged, cut short, or unpacks to more than a text would have."""
    unpack = zlib.decompressobj()
    try:
        text = unpack.decompress(packed, _LONGEST_TEXT)
    except zlib.error:
        return None
    return text if unpack.eof else None


def text_chunk(keyword: str, text: str) -> Chunk:
    """A text in UTF-8."""
    return Chunk(b"iTXt", keyword.encode("latin-1", "replace")[:79] + b"\0\0\0\0\0" + text.encode())


def text_of(chunk: Chunk) -> bytes | None:
    """The text of a chunk, UTF-8 or (tEXt, zTXt) Latin-1; None where it is damaged."""
    if chunk.kind == b"iTXt":
        return _international(chunk.content)
    text = chunk.content.partition(b"\0")[2]
    return _unpacked(text[1:]) if chunk.kind == b"zTXt" else text


def comment_of(texts: Iterable[Chunk]) -> bytes | None:
    """The text that is called "Comment", UTF-8; None where there is none."""
    chunk = next((chunk for chunk in texts if chunk.keyword == "Comment"), None)
    text = None if chunk is None else text_of(chunk)
    if text and chunk is not None and chunk.kind != b"iTXt":
        text = text.decode("latin-1").encode()
    return text or None


def profile_chunk(profile: bytes) -> Chunk:
    """An ICC profile."""
    return Chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))


def xmp_chunk(xmp: bytes) -> Chunk:
    """An XMP packet."""
    return Chunk(b"iTXt", _XMP + b"\0\0\0\0\0" + xmp)


def dpi_chunk(dpi: tuple[float, float]) -> Chunk:
    """Pixels per inch, across and down."""
    return Chunk(b"pHYs", struct.pack(">IIB", round(dpi[0] / _INCH), round(dpi[1] / _INCH), 1))


def write_animation(
    file: BinaryIO, pngs: Iterable[memoryview], durations: Sequence[float], plays: int, added: Iterable[Chunk]
) -> None:
    """An animated PNG of whole frames, written as they come.

    Args:
        file: where to write.
        pngs: the bytes of PNG files of one size, depth and kind of colour.
        durations: of each frame, in milliseconds.
        plays: how often the animation is shown; 0: for ever.
        added: chunks for behind the head.

    Raises:
        ValueError: a frame differs from the first in size, depth or kind of colour.
    """
    head = b""
    number = 0
    for png, duration in zip(pngs, durations, strict=True):
        if not head:
            head = bytes(png[:_HEAD])
            file.write(head + Chunk(b"acTL", struct.pack(">II", len(durations), plays)).packed())
            for chunk in added:
                file.write(chunk.packed())
        elif bytes(png[:_HEAD]) != head:
            raise ValueError("the frames of an animated PNG have one size, depth and kind of colour")
        file.write(Chunk(b"fcTL", struct.pack(">I", number) + head[16:24] + _delay(duration)).packed())
        first, number = number == 0, number + 1
        for content in _pixels(png):
            if first:
                file.write(Chunk(b"IDAT", content).packed())
            else:
                file.write(Chunk(b"fdAT", struct.pack(">I", number) + content).packed())
                number += 1
    file.write(Chunk(b"IEND", b"").packed())


def _delay(duration: float) -> bytes:
    """Offsets 0, the duration as a fraction of a second, and: the frame stays, and replaces what was there."""
    unit = 1000 if duration < 65536 else 10
    return struct.pack(">IIHHBB", 0, 0, min(round(duration * unit / 1000), 65535), unit, 0, 0)


def _pixels(png: memoryview) -> Iterator[bytes]:
    position = len(SIGNATURE)
    while position < len(png):
        length, kind = struct.unpack_from(">I4s", png, position)
        if kind == b"IDAT":
            yield bytes(png[position + 8 : position + 8 + length])
        position += 12 + length
