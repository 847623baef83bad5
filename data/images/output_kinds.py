"""Kinds of image files that are written: what each can hold, which settings it takes, how large it may be."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from utils.errors import InputError


class OutputKind(NamedTuple):
    """A kind of file.

    Attributes:
        name: as Pillow calls it.
        suffixes: of file names; the first is the usual one.
        holds: of "16 bits", "transparency", "half transparency", "any number of colours", "colour profile", "EXIF",
            "XMP", "resolution", "gamma", "texts", "comment", "animation", "plays", "pages".
        settings: of "quality", "lossless", "compression".
        side: most pixels of a side, or None.
        pixels: most pixels of a picture, or None.
    """

    name: str
    suffixes: tuple[str, ...]
    holds: frozenset[str]
    settings: frozenset[str]
    side: int | None = None
    pixels: int | None = None


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How files are encoded; None: as is usual for the kind.

    Attributes:
        quality: 1 .. 100, of kinds that lose something; usually 95 for JPEG, 90 for AVIF and JPEG XL; WebP files are
            lossless without it.
        lossless: nothing of the pixels may be lost.
        compression: 0 .. 9, of PNG and TIFF files: larger is smaller and slower.
    """

    quality: int | None = None
    lossless: bool = False
    compression: int | None = None


_PIXELS = ("transparency", "half transparency", "any number of colours")
_NOTES = ("colour profile", "EXIF", "XMP")


def _kind(
    name: str,
    suffixes: tuple[str, ...],
    holds: Iterable[str],
    settings: tuple[str, ...],
    side: int | None = None,
    pixels: int | None = None,
) -> OutputKind:
    return OutputKind(name, suffixes, frozenset(holds), frozenset(settings), side, pixels)


OUTPUT_KINDS = (
    _kind(
        "PNG", (".png", ".apng"),
        ("16 bits", *_PIXELS, *_NOTES, "resolution", "gamma", "texts", "comment", "animation", "plays"),
        ("compression", "lossless"),
    ),
    _kind(
        "JPEG", (".jpg", ".jpeg", ".jfif", ".jpe"), ("any number of colours", *_NOTES, "resolution", "comment"),
        ("quality",), 65500,
    ),
    _kind("WEBP", (".webp",), (*_PIXELS, *_NOTES, "animation", "plays"), ("quality", "lossless"), 16383),
    _kind(
        "TIFF", (".tif", ".tiff"),
        ("16 bits", *_PIXELS, *_NOTES, "resolution", "pages"), ("compression", "lossless"),
    ),
    # A file has at most 2^32 bytes, of which a pixel takes 3, and where a row has one pixel 4.
    _kind("BMP", (".bmp",), ("any number of colours", "resolution"), ("lossless",), pixels=(1 << 30) - 512),
    # Pillow chooses colours of so many.
    _kind("GIF", (".gif",), ("transparency", "comment", "animation", "plays"), (), 65535, (1 << 31) - 1),
    _kind("AVIF", (".avif",), (*_PIXELS, *_NOTES, "animation"), ("quality",), 32768),
    _kind("JXL", (".jxl",), (*_PIXELS, "EXIF", "XMP"), ("quality", "lossless")),  # as the plugin for Pillow
)  # fmt: skip
_BY_SUFFIX = {suffix: kind for kind in OUTPUT_KINDS for suffix in kind.suffixes}
OUTPUT_SUFFIXES = tuple(_BY_SUFFIX)
FORMATS = tuple(kind.suffixes[0][1:] for kind in OUTPUT_KINDS)
"""What users call the kinds: png, jpg, ..."""

_USED_FOR = {"quality": "JPEG, WebP, AVIF and JPEG XL", "compression": "PNG and TIFF"}


def output_kind(path: Path) -> OutputKind:
    """The kind of file that a suffix names.

    Raises:
        ValueError: it names none.
    """
    kind = _BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f'{path}: "{path.suffix}" is no known kind of image; use one of {", ".join(_BY_SUFFIX)}')
    return kind


def check_encoding(paths: Iterable[Path], encoding: Encoding) -> None:
    """Whether files of these names can be written with these settings.

    Args:
        paths: of pictures.
        encoding: the settings.

    Raises:
        InputError: Pillow cannot write such a file; a setting is out of its range, or none of the files can use it.
    """
    suffixes = {path.suffix.lower(): output_kind(path) for path in paths}
    for suffix, kind in suffixes.items():
        if not _is_writable(kind):
            plugin = "the package pillow-jxl-plugin adds them; " if kind.name == "JXL" else ""
            raise InputError(
                f"{suffix} files cannot be written by the installed Pillow; {plugin}or choose another kind"
            )
    for name, value, least, most in (
        ("quality", encoding.quality, 1, 100),
        ("compression", encoding.compression, 0, 9),
    ):
        if value is None:
            continue
        if not least <= value <= most:
            raise InputError(f"--{name} must be in {least} .. {most}, got {value}")
        if not any(name in kind.settings for kind in suffixes.values()):
            results = f"the results are {_listed(suffixes)} files" if suffixes else "no result is a picture"
            raise InputError(f"--{name} is for {_USED_FOR[name]} files, and {results}; choose one with --format")
    if encoding.lossless and encoding.quality is not None:
        raise InputError("--lossless and --quality exclude each other; leave one of them out")
    unable = [suffix for suffix, kind in suffixes.items() if "lossless" not in kind.settings]
    if encoding.lossless and unable:
        raise InputError(f"{_listed(unable)} files are not lossless here; leave --lossless out, or use --format png")


def check_size(path: Path, height: int, width: int) -> None:
    """Whether a picture of this size can be written.

    Raises:
        InputError: it is larger than this kind of file allows.
    """
    kind = output_kind(path)
    result = f"{path}: the result has {width} x {height} pixels, and {path.suffix} files at most"
    if kind.side is not None and max(height, width) > kind.side:
        raise InputError(f"{result} {kind.side} a side; choose --format png, or --resize longest {kind.side}")
    if kind.pixels is not None and height * width > kind.pixels:
        raise InputError(f"{result} {kind.pixels:,} of them; choose --format png, or a smaller --resize")


def _is_writable(kind: OutputKind) -> bool:
    if kind.name not in ("AVIF", "JXL", "WEBP"):  # those that Pillow may be built without
        return True
    from PIL import Image

    if kind.name == "JXL":
        with suppress(ImportError):  # it makes the kind known to Pillow
            importlib.import_module("pillow_jxl")
    Image.init()
    return kind.name in Image.SAVE


def _listed(suffixes: Iterable[str]) -> str:
    return " and ".join(sorted(suffixes))
