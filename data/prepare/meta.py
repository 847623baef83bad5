"""Lists of images with their sizes, as BasicSR writes them."""

from __future__ import annotations

import struct
from pathlib import Path

from data.images.files import decode_image, list_images, read_bytes
from data.images.integrity import damage, png_size
from data.images.scan import in_threads
from data.prepare.common import check_text_target
from utils.errors import InputError
from utils.files import write_text


def shape_of(content: bytes, name: str) -> tuple[int, int, int]:
    """(height, width, channels) of the image in the bytes of a file; PNG files are not decoded for it.

    Raises:
        InputError: the bytes are no image, or damaged.
    """
    size = png_size(content)
    if size is not None and b"eXIf" not in content and not damage(content):
        (kind,) = struct.unpack_from("B", content, 25)
        return *size, 1 if kind in (0, 4) else 3  # grey, grey with transparency; else colour or a palette
    height, width, channels = decode_image(content, name, keep_grey=True).shape
    return height, width, channels


def write_meta(folder: Path, target: Path) -> int:
    """Write ``NAME (H,W,C)`` for each image of ``folder``, sorted by name; returns their number.

    Raises:
        InputError: an image cannot be read, a name cannot be told from what follows it, or ``target`` is no name of a
            text file.
    """
    check_text_target(target)
    files = list_images(folder)
    broken = [path for path in files if not path.name.isprintable() or path.name != path.name.strip()]
    if broken:
        raise InputError(f"{str(broken[0])!r}: the name holds a character that cannot stand in a list; rename the file")
    shapes = in_threads(lambda i: shape_of(read_bytes(files[i]), str(files[i])), range(len(files)), "reading sizes")
    lines = [f"{path.name} ({h},{w},{c})\n" for path, (h, w, c) in zip(files, shapes, strict=True)]
    write_text(target, "".join(lines))
    return len(files)
