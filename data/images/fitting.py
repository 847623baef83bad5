"""A picture without what a kind of file cannot hold, and the names of that."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.images.metadata import texts_of_exif
from data.images.output_kinds import OutputKind
from data.images.photo import Levels, Photo
from data.images.png import COLOUR, Chunk, comment_of

_SRGB_GAMMA = 45455
_SRGB_CHROMATICITIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_SEGMENT = 65000  # bytes that one part of a JPEG file holds, less what stands in front of it


def fitted(kind: OutputKind, photo: Photo) -> tuple[Photo, tuple[str, ...]]:
    """The picture without what this kind of file cannot hold, and the names of that, such as "transparency"."""
    changes: dict[str, Any] = {}
    dropped = []
    if photo.pixels.dtype == np.uint16 and "16 bits" not in kind.holds:
        dropped.append("the lower 8 of 16 bits")
        changes = {
            "pixels": eight_bits(photo.pixels),
            "alpha": None if photo.alpha is None else eight_bits(photo.alpha),
        }
    if photo.alpha is not None:
        lost = _alpha_lost(kind, photo.alpha, photo.top)
        dropped.extend(lost)
        if "transparency" not in kind.holds:
            changes["alpha"] = None
    if "any number of colours" not in kind.holds and _is_colourful(changes.get("pixels", photo.pixels)):
        dropped.append("colours beyond 256")
    if photo.profile is not None and "colour profile" not in kind.holds:
        dropped.append("colour profile")
        changes["profile"] = None
    # A part of a JPEG file holds so much; profiles are divided, other notes are not.
    most = _SEGMENT if kind.name == "JPEG" else None
    if kind.name == "TIFF" and not texts_of_exif(photo.exif)[1]:
        dropped.append("EXIF")  # but for its texts
    for name, block in (("EXIF", photo.exif), ("XMP", photo.xmp)):
        if block is not None and (name not in kind.holds or (most is not None and len(block) > most)):
            dropped.append(name)
            changes[name.lower()] = None
    if photo.dpi is not None and "resolution" not in kind.holds:
        dropped.append("resolution")
        changes["dpi"] = None
    if photo.colour and "gamma" not in kind.holds:
        dropped.extend(_colour_lost(photo))
        changes["colour"] = ()
    if photo.texts and "texts" not in kind.holds:
        kept, names = _texts_lost(kind, photo.texts)
        dropped.extend(names)
        changes["texts"] = kept
    return dataclasses.replace(photo, **changes), tuple(dropped)


def eight_bits(levels: Levels) -> NDArray[np.uint8]:
    """[H, W, C] in 0 .. 65535 -> 0 .. 255, rounded, row by row; what has 8 bits stays."""
    if levels.dtype == np.uint8:
        return levels.view(np.uint8)
    result = np.empty(levels.shape, np.uint8)
    for row, deep in zip(result, levels, strict=True):
        row[...] = (deep.astype(np.uint32) + 128) // 257
    return result


def _alpha_lost(kind: OutputKind, alpha: Levels, top: int) -> list[str]:
    if "half transparency" in kind.holds or alpha.min() == top:
        return []
    if "transparency" not in kind.holds:
        return ["transparency"]
    return ["half transparency"] if bool(((alpha > 0) & (alpha < top)).any()) else []


def _is_colourful(pixels: Levels) -> bool:
    """Whether a picture of 8 bits has more than 255 colours."""
    from PIL import Image

    return pixels.shape[2] == 3 and Image.fromarray(pixels).getcolors(255) is None


def _colour_lost(photo: Photo) -> list[str]:
    """Names of what the levels mean, unless that is what they are taken for anyway."""
    kinds = {chunk.kind for chunk in photo.colour}
    if b"cICP" not in kinds and (photo.profile is not None or b"sRGB" in kinds):
        return []
    return list(dict.fromkeys(COLOUR[chunk.kind] for chunk in photo.colour if not _is_usual(chunk)))


def _is_usual(chunk: Chunk) -> bool:
    if chunk.kind == b"gAMA":
        return abs(int.from_bytes(chunk.content, "big") - _SRGB_GAMMA) <= 100
    return chunk.kind == b"sRGB" or (chunk.kind == b"cHRM" and chunk.content == _SRGB_CHROMATICITIES)


def _texts_lost(kind: OutputKind, texts: tuple[Chunk, ...]) -> tuple[tuple[Chunk, ...], list[str]]:
    comment = comment_of(texts) if "comment" in kind.holds else None
    held = comment is not None and len(comment) <= _SEGMENT
    kept = tuple(chunk for chunk in texts if held and chunk.keyword == "Comment")[:1]
    names = sorted({chunk.keyword for chunk in texts if chunk not in kept})
    return kept, [f"texts ({', '.join(names)})"] if names else []
