"""LMDB data sets in BasicSR's layout: ``NAME.lmdb`` with data.mdb, lock.mdb and meta_info.txt.

The data set is made in ``NAME.lmdb.part``, which takes the final name at the end. Every commit is durable, so that a
run that was killed goes on after its last one.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data.images.files import opencv_file, opencv_pixels
from data.images.head import check_pixels
from data.images.integrity import damage
from data.images.scan import in_order
from data.images.sources import FileImage, LmdbImage
from data.prepare.common import UNFINISHED, Picture, Skipper, check_target, exclusive, pictures, stamp_of
from data.prepare.meta import shape_of
from utils.errors import InputError, StorageError
from utils.files import DISK_FULL, make_folder, rename_whole, storage_error, write_text
from utils.log import get_logger
from utils.progress import Progress

if TYPE_CHECKING:
    import lmdb

_FIRST_MAP = 1 << 28  # grows as it fills
_LITTLE = 1 << 20
_PLAN = "plan.json"
_EXIF = (b"Exif\0\0", b"eXIf", b"EXIF")  # in JPEG, PNG and WebP files


def write_lmdb(
    source: Path,
    target: Path,
    *,
    meta_file: Path | None = None,
    compression: int = 1,
    copy: bool = False,
    commit_every: int = 1000,
    skip_bad: bool = False,
) -> tuple[int, Sequence[str]]:
    """Write the images of a folder (or pack, or another LMDB data set) as an LMDB data set.

    Args:
        source: left as it is.
        target: ``NAME.lmdb``; must not exist.
        meta_file: list of the images to take; None: all.
        compression: level of the PNG files inside.
        copy: take the bytes of the files as they are instead of encoding the pixels again as PNG.
        commit_every: images between two commits.
        skip_bad: leave out images that cannot be read.

    Returns:
        Number of images, and what was left out.

    Raises:
        InputError: an image cannot be used, there is none, the target exists or has another suffix, or another process
            is writing it.
        StorageError: the disk is full.
    """
    check_target(target, ".lmdb")
    listed = pictures(source, meta_file)
    _check_keys(listed)
    part = target.with_name(target.name + UNFINISHED)
    skipper = Skipper(skip_bad)

    def encode(picture: Picture) -> tuple[Picture, bytes]:
        return picture, value_of(picture, compression, copy)

    try:
        import lmdb
    except ImportError as error:
        raise InputError(f"{target}: LMDB data sets need the package lmdb: pip install lmdb") from error
    with exclusive(part):
        check_target(target, ".lmdb")  # another process may just have finished it
        begin(part, {"source": str(source.resolve()), "compression": compression, "copy": copy})
        try:
            _fill(part, listed, skipper.usable(encode), commit_every)
            lines = meta_lines(part, listed, compression)
        except lmdb.Error as error:
            raise _lmdb_problem(part, error) from error
        if not lines:
            raise InputError(f"{target}: there is no usable image in {source}")
        write_text(part / "meta_info.txt", "".join(lines))
        (part / _PLAN).unlink()
        rename_whole(part, target)
    return len(lines), skipper.messages


def _fill(
    part: Path,
    listed: Sequence[Picture],
    encode: Callable[[Picture], tuple[Picture, bytes] | None],
    commit_every: int,
) -> None:
    """Write the entries that are not there yet, or whose images have changed since the last commit."""
    import lmdb

    data = part / "data.mdb"
    committed = stamp_of(data)[1] if data.is_file() else 0
    environment = lmdb.open(str(part), map_size=_FIRST_MAP, readahead=False)
    try:
        with environment.begin() as transaction:
            have = {bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)}
        todo = [picture for picture in listed if picture.key.encode() not in have or picture.stamp[1] > committed]
        with Progress(len(listed), "writing LMDB", done=len(listed) - len(todo), plain=get_logger().info) as progress:
            waiting: list[tuple[bytes, bytes]] = []
            for result in in_order(encode, todo):
                progress.advance()
                if result is not None:
                    waiting.append((result[0].key.encode(), result[1]))
                if len(waiting) == commit_every:
                    commit(environment, waiting)
                    waiting = []
            commit(environment, waiting)
    finally:
        environment.close()


def _check_keys(listed: Sequence[Picture]) -> None:
    for picture in listed:
        if len(picture.key.encode()) > 511:  # LMDB's own limit
            raise InputError(f"{picture.source.label}: the name is longer than the 511 bytes that LMDB allows")
        if picture.key.splitlines() != [picture.key]:
            raise InputError(f"{picture.source.label!r}: the name holds a line break; rename the file")


def begin(part: Path, plan: dict[str, object]) -> None:
    """Make the unfinished folder, or go on with one that was begun in the same way."""
    path = part / _PLAN
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != plan:
        raise InputError(f"{part} was begun from another source or with other settings; remove it to begin anew")
    make_folder(part)
    write_text(path, json.dumps(plan))


def value_of(picture: Picture, compression: int, copy: bool) -> bytes:
    """What an entry stores: the file as it is where ``copy`` allows it, else a PNG of that compression level."""
    source = picture.source
    if not isinstance(source, FileImage | LmdbImage):
        pixels = picture.stored()
        ordered = pixels if pixels.shape[2] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        return _png(ordered, compression)
    content = source.content()
    if copy:
        problem = damage(content)
        if problem:
            raise InputError(f"{source.label}: the image cannot be read: {problem}")
        return content
    # As BasicSR reads them: with the bits and channels of the file. But that leaves photographs lying on their side,
    # whose orientation the new file will not tell.
    upright = any(mark in content for mark in _EXIF)
    mode = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if upright else cv2.IMREAD_UNCHANGED
    check_pixels(content, source.label)
    decoded = opencv_pixels(content, source.label, mode)
    if decoded.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{source.label}: expected 8 or 16 bits per channel, got {decoded.dtype}")
    return _png(decoded, compression)


def _png(pixels: NDArray[Any], compression: int) -> bytes:
    return opencv_file(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, compression])


def commit(environment: lmdb.Environment, items: Sequence[tuple[bytes, bytes]]) -> None:
    """Write all of ``items`` or none."""
    import lmdb

    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in items:
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def meta_lines(part: Path, listed: Sequence[Picture], compression: int) -> list[str]:
    """The lines of ``meta_info.txt``: name, size and compression level of each entry that is there."""
    import lmdb

    lines = []
    with lmdb.open(str(part), readonly=True, lock=False) as environment, environment.begin() as transaction:
        for picture in listed:
            value = transaction.get(picture.key.encode())
            if value is not None:  # else it was left out
                height, width, channels = shape_of(bytes(value), picture.key)
                lines.append(f"{picture.key}.png ({height},{width},{channels}) {compression}\n")
    return lines


def _lmdb_problem(part: Path, error: lmdb.Error) -> InputError | StorageError:
    # LMDB calls a write that the disk cut short an input/output error.
    cut_short = os.strerror(errno.EIO) in str(error) and shutil.disk_usage(part).free < _LITTLE
    if cut_short or any(os.strerror(number) in str(error) for number in DISK_FULL):
        return StorageError(f"the disk is full: {part} could not be written; free some space and start again")
    if isinstance(error.__cause__, OSError):
        return storage_error(part, error.__cause__)
    return StorageError(f"{part} could not be written: {error}")
