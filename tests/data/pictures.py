"""Small pictures and folders of them, for the tests of the data layer."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image, ImageCms

from data.images.files import Pixels, write_image
from data.images.png_stream import packed_chunk

Backend = Literal["disk", "memory", "lmdb", "pack"]
BACKENDS: tuple[Backend, ...] = ("disk", "memory")


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    """Every pixel its own value: a wrong crop cannot go unseen."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_folder(folder: Path, names: list[str], height: int = 24, width: int = 32) -> list[Path]:
    """PNG files of noise, each different."""
    paths = [folder / name for name in names]
    for seed, path in enumerate(paths):
        write_image(path, noise(height, width, seed))
    return paths


def forbid(monkeypatch: pytest.MonkeyPatch, method: str, *paths: Path) -> None:
    """A method of these paths fails for want of permission, even for an administrator, whom the system lets through.

    With "open", the files themselves cannot be opened.
    """
    owner = os if method == "open" else Path
    original = getattr(owner, method)

    def refused(path: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(path, str | Path) and Path(path) in paths:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(owner, method, refused)


BLOCKS = noise(8, 6).repeat(8, axis=0).repeat(8, axis=1)  # JPEG keeps them
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def levels(height: int, width: int, channels: int, kind: Any, seed: int = 0) -> Any:
    """[H, W, C] noise of 8 or 16 bits."""
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max + 1, (height, width, channels), dtype=kind)


def exif(orientation: int) -> bytes:
    """An EXIF block with a maker and a width that is no longer right."""
    block = Image.Exif()
    block[0x0112], block[0x010F] = orientation, "Maker"
    block.get_ifd(0x8769)[0xA002] = 6
    return block.tobytes()


def png_of(height: int, width: int, bits: int = 8) -> bytes:
    """A grey PNG file that is whole and black, of which nothing is ever unpacked; a megapixel takes a kilobyte."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width * bits + 7) // 8)
    content = b"".join(packer.compress(row * 100) for _ in range(height // 100)) + packer.compress(row * (height % 100))
    head = packed_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + packed_chunk(b"IDAT", content + packer.flush()) + packed_chunk(b"IEND", b"")
