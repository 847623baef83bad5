"""Writing packs (:mod:`data.images.pack`): decoding by several threads, one shard after the other.

A pack is made in ``NAME.pack.part``, which takes the final name at the end. A run that was killed goes on after the
last whole shard.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data.images.files import Pixels
from data.images.pack import ALIGNMENT, ENTRIES, ENTRY, FORMAT, INDEX, KEYS, VERSION, shard_name
from data.images.scan import in_order
from data.prepare.common import UNFINISHED, Picture, Skipper, check_target, exclusive, pictures
from utils.errors import InputError
from utils.files import atomic_write, rename_whole, storage_error, sync_folder, write_json
from utils.log import get_logger
from utils.progress import Progress


def write_pack(
    source: Path,
    target: Path,
    *,
    meta_file: Path | None = None,
    shard_bytes: int = 1 << 30,
    skip_bad: bool = False,
) -> tuple[int, Sequence[str]]:
    """Write the images of a folder (or LMDB data set, or another pack) as a pack.

    Args:
        source: left as it is.
        target: ``NAME.pack``; must not exist.
        meta_file: list of the images to take; None: all.
        shard_bytes: a shard is closed when it has grown to this.
        skip_bad: leave out images that cannot be read.

    Returns:
        Number of images, and what was left out.

    Raises:
        InputError: an image cannot be used, there is none, the target exists or has another suffix, or another process
            is writing it.
        StorageError: the disk is full.
    """
    check_target(target, ".pack")
    listed = pictures(source, meta_file)
    for picture in listed:
        if "\n" in picture.key:
            raise InputError(f"{picture.source.label!r}: the name holds a line break; rename the file")
    part = target.with_name(target.name + UNFINISHED)
    skipper = Skipper(skip_bad)

    def decode(picture: Picture) -> tuple[Picture, Pixels]:
        return picture, np.ascontiguousarray(picture.stored())

    with exclusive(part):
        check_target(target, ".pack")  # another process may just have finished it
        shards = _fill(part, listed, skipper.usable(decode), shard_bytes)
        images = write_index(part, shards)
        expected = {INDEX, ENTRIES, KEYS, *(shard_name(number) for number in range(len(shards)))}
        for leftover in [path for path in part.iterdir() if path.name not in expected]:
            leftover.unlink()  # what is known of shards, and those of an earlier run with more of them
        rename_whole(part, target)
    return images, skipper.messages


def _fill(
    part: Path,
    listed: Sequence[Picture],
    decode: Callable[[Picture], tuple[Picture, Pixels] | None],
    shard_bytes: int,
) -> list[_Shard]:
    """Write the shards that are not there yet."""
    shards = _finished(part, listed)
    # What is known of shards that are about to be written again must not outlive them, whatever happens meanwhile.
    for known in part.glob("*.json"):
        if known.name != INDEX and known not in [_sidecar(part, number) for number in range(len(shards))]:
            known.unlink()
    sync_folder(part)
    done = sum(shard.seen for shard in shards)
    results = in_order(decode, listed[done:])
    with Progress(len(listed), "packing", done=done, plain=get_logger().info) as progress:
        while done < len(listed):
            shard = _write_shard(part, len(shards), results, shard_bytes, progress)
            # Where a run is resumed, the stamps tell whether the files are still those that were packed.
            shard.stamps = [picture.stamp for picture in listed[done : done + shard.seen]]
            write_json(_sidecar(part, len(shards)), shard.as_json())
            shards.append(shard)
            done += shard.seen
    return shards


@dataclass
class _Shard:
    """What is known of one shard.

    Attributes:
        seen: pictures that went into it, left-out ones included.
        size: bytes.
        keys: names of its images.
        entries: for each of them offset, height, width, checksum, channels.
        stamps: of the pictures that were seen.
    """

    seen: int = 0
    size: int = 0
    keys: list[str] = field(default_factory=list)
    entries: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    stamps: list[tuple[int, int]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "seen": self.seen, "size": self.size, "keys": self.keys, "entries": self.entries, "stamps": self.stamps,
        }  # fmt: skip


def _sidecar(part: Path, number: int) -> Path:
    return part / f"{shard_name(number)}.json"


def _finished(part: Path, listed: Sequence[Picture]) -> list[_Shard]:
    """The whole shards of an earlier run, as long as they hold what is to be packed now."""
    shards: list[_Shard] = []
    done = 0
    while _sidecar(part, len(shards)).is_file():
        facts = json.loads(_sidecar(part, len(shards)).read_text(encoding="utf-8"))
        path = part / shard_name(len(shards))
        pending = listed[done : done + facts["seen"]]
        kept = set(facts["keys"])
        same = [picture.key for picture in pending if picture.key in kept] == facts["keys"]
        same = same and [list(picture.stamp) for picture in pending] == facts["stamps"]
        if not same or not path.is_file() or path.stat().st_size != facts["size"]:
            break
        shards.append(_Shard(facts["seen"], facts["size"], facts["keys"], facts["entries"], facts["stamps"]))
        done += facts["seen"]
    return shards


def _write_shard(
    part: Path, number: int, results: Iterator[tuple[Picture, Pixels] | None], limit: int, progress: Progress
) -> _Shard:
    """Fill one shard from ``results`` until it is large enough or nothing is left."""
    shard = _Shard()
    path = part / shard_name(number)
    try:
        with path.open("wb") as file:
            for result in results:
                shard.seen += 1
                progress.advance()
                if result is not None:
                    append_shard(shard, file, *result)
                if shard.size >= limit:
                    break
            file.flush()
            os.fsync(file.fileno())
        sync_folder(part)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise storage_error(path, error) from error
    return shard


def append_shard(shard: _Shard, file: BinaryIO, picture: Picture, pixels: Pixels) -> None:
    """Write an image [H, W, 3] behind those of its shard, aligned, and note its entry."""
    gap = -shard.size % ALIGNMENT
    file.write(b"\0" * gap)
    file.write(pixels.data)
    height, width, channels = pixels.shape
    shard.keys.append(picture.key)
    shard.entries.append((shard.size + gap, height, width, zlib.crc32(pixels.data), channels))
    shard.size += gap + pixels.nbytes


def write_index(part: Path, shards: Sequence[_Shard]) -> int:
    """Write the entries and keys of all shards, and the index last; returns the number of images."""
    entries = np.zeros(sum(len(shard.keys) for shard in shards), ENTRY)
    if not len(entries):
        raise InputError(f"{part}: there is no usable image to pack")
    place = 0
    for number, shard in enumerate(shards):
        rows = entries[place : place + len(shard.keys)]
        rows["shard"] = number
        for column, name in enumerate(("offset", "height", "width", "crc32", "channels")):
            rows[name] = [entry[column] for entry in shard.entries]
        place += len(shard.keys)
    keys = "".join(f"{key}\n" for shard in shards for key in shard.keys).encode()
    with atomic_write(part / ENTRIES) as file:
        np.save(file, entries, allow_pickle=False)
    with atomic_write(part / KEYS) as file:
        file.write(keys)
    checksums = {ENTRIES: zlib.crc32((part / ENTRIES).read_bytes()), KEYS: zlib.crc32(keys)}
    header = {
        "format": FORMAT, "version": VERSION, "images": len(entries),
        "shards": [shard.size for shard in shards], "crc32": checksums,
    }  # fmt: skip
    write_json(part / INDEX, header)
    return len(entries)
