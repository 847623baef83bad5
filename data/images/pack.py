"""The pack format: decoded images in large memory-mapped files, of which crops are read without decoding anything.

A folder ``NAME.pack``:

    index.json       {"format", "version", "images", "shards": [bytes, ...], "crc32": {"entries.npy", "keys.txt"}}
    entries.npy      one ENTRY for each image: where its pixels are, its size, their checksum
    keys.txt         the name of each image without extension, UTF-8, one in a line
    shard-00000.bin  pixels, 8 bit R G B [H, W, 3] or grey [H, W, 1], row after row; each image starts at a multiple of
                     64 bytes

The index is written last: a folder that has one is whole. Checksums are CRC-32. Those of the entries and names are
compared when a pack is opened, that of an image when it is first read: once in a run, since worker processes share
the notes of what was compared. After that, reading a crop looks at its bytes alone. The index itself needs none:
it holds sizes and checksums, which agree with the files or do not.
"""

from __future__ import annotations

import json
import mmap
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.images.files import Pixels, is_file
from data.images.integrity import DAMAGE_ERRORS
from data.images.names import Names
from utils.errors import InputError
from utils.reading import MOST_TEXT, open_regular, read_regular

FORMAT, VERSION = "focalsr pack", 1
ALIGNMENT = 64
ENTRY = np.dtype(
    [
        ("offset", "<u8"),
        ("shard", "<u4"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("crc32", "<u4"),
        ("channels", "<u4"),
        ("reserved", "<u4"),
    ]
)
INDEX, ENTRIES, KEYS = "index.json", "entries.npy", "keys.txt"

# Opened once per process and folder; a mapping that was made before a fork serves the child as well.
_opened: dict[Path, Pack] = {}


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.bin"


class Pack:
    """A pack, opened; nothing but its index is read until pixels are asked for.

    Args:
        folder: ``NAME.pack``.

    Raises:
        InputError: it is no pack, of another version, unfinished, damaged, or a shard is missing or short.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        header = _header(folder)
        keys = _checked(folder, header, KEYS).decode(errors="replace").split("\n")[:-1]
        if len(set(keys)) < len(keys):
            raise InputError(f"{folder / KEYS}: a name comes twice; {_AGAIN}")
        self.keys = Names(keys)
        _checked(folder, header, ENTRIES)
        try:
            self.entries: NDArray[Any] = np.load(folder / ENTRIES, mmap_mode="r", allow_pickle=False)
        except DAMAGE_ERRORS as error:  # objects instead of numbers, above all
            raise InputError(f"{folder / ENTRIES}: these are no entries of a pack ({error}); {_AGAIN}") from error
        fits = self.entries.dtype == ENTRY and self.entries.shape == (len(self.keys),) == (header["images"],)
        if not fits or not _inside(self.entries, header["shards"]):
            raise InputError(f"{folder}: the index does not fit together; {_AGAIN}")
        self._shards = [map_shard(folder, number, size) for number, size in enumerate(header["shards"])]
        # Shared with processes that are forked from this one, so that an image is not compared once by each worker.
        self._compared = mmap.mmap(-1, max(1, len(self.keys)))

    def __len__(self) -> int:
        return len(self.keys)

    def pixels(self, number: int) -> Pixels:
        """The image as it is stored, uint8 [H, W, 3] or [H, W, 1]; a view of the file that cannot be written to.

        Raises:
            InputError: it is read for the first time, and differs from what was packed.
        """
        if not self._compared[number]:
            if self.damaged(number):
                raise InputError(f"{self.folder}: {self.keys[number]}: the pixels are damaged (checksum); {_AGAIN}")
            self._compared[number] = 1
        return self._stored(number)

    def damaged(self, number: int) -> bool:
        """Whether the pixels of an image differ from what was packed; reads all of them."""
        return zlib.crc32(self._stored(number).data) != int(self.entries[number]["crc32"])

    def _stored(self, number: int) -> Pixels:
        entry = self.entries[number]
        shape = (int(entry["height"]), int(entry["width"]), int(entry["channels"]))
        start, size = int(entry["offset"]), shape[0] * shape[1] * shape[2]
        return self._shards[int(entry["shard"])][start : start + size].reshape(shape)


_AGAIN = "pack the images again (scripts/prepare_dataset.py pack)"


def open_pack(folder: Path) -> Pack:
    """The pack of a folder, opened when first asked for; errors as :class:`Pack`."""
    pack = _opened.get(folder)  # asked for with every image: finding the real path takes longer than a crop's pixels
    if pack is None:
        pack = _opened[folder] = Pack(folder)
    return pack


@dataclass(frozen=True)
class PackImage:
    """An image of a pack."""

    folder: Path
    number: int

    @property
    def key(self) -> str:
        """Its name in the pack."""
        return open_pack(self.folder).keys[self.number]

    @property
    def name(self) -> str:
        """See :class:`data.images.sources.ImageSource`."""
        return PurePosixPath(self.key).name

    @property
    def label(self) -> str:
        """See :class:`data.images.sources.ImageSource`."""
        return f"{self.folder}: {self.key}"

    def read(self) -> Pixels:
        """uint8 [H, W, 3], a view of the file: only the pixels that are looked at are read."""
        pixels = open_pack(self.folder).pixels(self.number)
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _header(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not is_file(path):
        state = "is no pack, or its packing was not finished" if folder.is_dir() else "does not exist"
        raise InputError(f"{folder} {state}: expected a folder NAME.pack with {INDEX}")
    try:
        header = json.loads(read_regular(path, MOST_TEXT))
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the index is damaged ({error}); {_AGAIN}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path}: this is no index of a pack")
    if header.get("version") != VERSION:
        raise InputError(f"{folder}: a pack of version {header.get('version')}, but {VERSION} is read here; {_AGAIN}")
    shards, checksums = header.get("shards"), header.get("crc32")
    whole = isinstance(header.get("images"), int) and isinstance(checksums, dict) and {ENTRIES, KEYS} <= set(checksums)
    if not whole or not isinstance(shards, list) or not all(isinstance(size, int) for size in shards):
        raise InputError(f"{path}: the index is damaged (images, shards or crc32 is missing or odd); {_AGAIN}")
    return header


def _checked(folder: Path, header: dict[str, Any], name: str) -> bytes:
    try:
        content = read_regular(folder / name)
    except OSError as error:
        raise InputError(f"{folder / name}: a part of the pack cannot be read ({error.strerror}); {_AGAIN}") from error
    if zlib.crc32(content) != header["crc32"][name]:
        raise InputError(f"{folder / name}: a part of the pack is damaged (checksum); {_AGAIN}")
    return content


def _inside(entries: NDArray[Any], shards: list[int]) -> bool:
    """Whether all images lie in their shards, and have a size and channels that images have."""
    if np.any(entries["shard"] >= len(shards)):
        return False
    height, width, channels, start = (
        entries[name].astype(np.float64) for name in ("height", "width", "channels", "offset")
    )  # whose products do not wrap round
    sides = (height >= 1) & (width >= 1) & ((channels == 1) | (channels == 3))
    ends = start + height * width * channels
    return bool(np.all(sides & (ends <= np.array(shards, np.float64)[entries["shard"]])))


def map_shard(folder: Path, number: int, size: int) -> NDArray[np.uint8]:
    """Shard ``number`` of a pack, ``size`` bytes, mapped into memory.

    Raises:
        InputError: it is missing, or of another size.
    """
    path = folder / shard_name(number)
    if not is_file(path):
        raise InputError(f"{path} is missing; copy it again, or {_AGAIN}")
    found = path.stat().st_size
    if found != size:
        problem = f"is cut short ({found:,} of" if found < size else f"is too long ({found:,} instead of"
        raise InputError(f"{path} {problem} {size:,} bytes); copy it again, or {_AGAIN}")
    # Not np.memmap: its views carry an object each, and cost microseconds.
    try:
        with open_regular(path) as file:
            return np.asarray(np.memmap(file, np.uint8, mode="r")) if size else np.empty(0, np.uint8)
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read: {error.strerror or error}") from error
