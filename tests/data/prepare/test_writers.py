"""LMDB data sets and packs as they are written: content, going on after a kill, full disks, bad input."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest

from data.images.files import read_image, write_image
from data.images.listing import list_singles
from data.images.pack import Pack
from data.prepare import common, lmdb_writer, pack_writer
from data.prepare.lmdb_writer import write_lmdb
from data.prepare.pack_writer import write_pack
from tests.data.pictures import noise, write_folder
from tests.runs import ROOT, environment, start
from utils.errors import InputError, StorageError

NAMES = ["a b.png", "b.c.png", "é 漢字.png", "z.png"]
Writer = Callable[..., Any]
WRITERS: list[tuple[Writer, str]] = [(write_lmdb, ".lmdb"), (write_pack, ".pack")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "hr", NAMES)
    return tmp_path / "hr"


def entries(folder: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return {bytes(key): bytes(value) for key, value in transaction.cursor()}


@pytest.mark.parametrize(("writer", "suffix"), WRITERS)
def test_pixels_and_names(writer: Writer, suffix: str, folder: Path, tmp_path: Path) -> None:
    assert writer(folder, tmp_path / f"hr{suffix}") == (4, [])
    images = {image.name: image.read() for image in list_singles([tmp_path / f"hr{suffix}"], [])}
    assert set(images) == {Path(name).stem for name in NAMES}
    for name in NAMES:
        assert np.array_equal(images[Path(name).stem], read_image(folder / name))
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(("writer", "suffix"), WRITERS)
@pytest.mark.parametrize("first", [".lmdb", ".pack"])
def test_one_is_made_of_the_other(writer: Writer, suffix: str, first: str, folder: Path, tmp_path: Path) -> None:
    {s: w for w, s in WRITERS}[first](folder, tmp_path / f"one{first}")
    listing = tmp_path / "list.txt"
    listing.write_text("z.png (24,32,3)\na b.png (24,32,3)\n")
    assert writer(tmp_path / f"one{first}", tmp_path / f"two{suffix}", meta_file=listing)[0] == 2
    images = {image.name: image.read() for image in list_singles([tmp_path / f"two{suffix}"], [])}
    assert np.array_equal(images["a b"], read_image(folder / "a b.png"))


@pytest.mark.parametrize(("writer", "suffix"), WRITERS)
@pytest.mark.parametrize("key", ["../../x", "/x/y", "a/../../x", "C:/x", "..\\x", "a//x", "a/./x"])
def test_names_that_lead_out_of_the_folder_are_not_copied(
    writer: Writer, suffix: str, key: str, folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "foreign.lmdb"
    with lmdb.open(str(source)) as environment, environment.begin(write=True) as transaction:
        transaction.put(key.encode(), (folder / NAMES[0]).read_bytes())
    (source / "meta_info.txt").write_text(f"{key}.png (24,32,3) 1\n")
    with pytest.raises(InputError, match=r"foreign\.lmdb: .*leads out of the folder; rename the image"):
        writer(source, tmp_path / f"copy{suffix}")
    assert not (tmp_path / f"copy{suffix}").exists()


@pytest.mark.parametrize(("writer", "suffix"), WRITERS)
def test_lists_that_lead_out_of_the_folder_are_not_copied(
    writer: Writer, suffix: str, folder: Path, tmp_path: Path
) -> None:
    write_folder(tmp_path / "other", ["x.png"])
    for name in ("../other/x.png", str(tmp_path / "other/x.png")):
        (tmp_path / "list.txt").write_text(f"{name} (24,32,3)\n")
        with pytest.raises(InputError, match="leads out of the folder"):
            writer(folder, tmp_path / f"copy{suffix}", meta_file=tmp_path / "list.txt")


@pytest.mark.shared
def test_lmdb_is_byte_for_byte_the_recorded_one(shared: Path, tmp_path: Path) -> None:
    """Written out of the pixels with the settings of the original, in the same order."""
    recorded = shared / "golden/formats/tiny.lmdb"
    with np.load(shared / "golden/formats/tiny_lmdb_images.npz") as arrays:
        for key in arrays.files:
            image = arrays[key]
            cv2.imwrite(str(_made(tmp_path / "hr") / f"{key}.png"), image[..., ::-1] if image.ndim == 3 else image)
    write_lmdb(tmp_path / "hr", tmp_path / "tiny.lmdb")
    copied = _made(tmp_path / "recorded.lmdb")  # LMDB opens a data set once in a process, and others read it, too
    shutil.copyfile(recorded / "data.mdb", copied / "data.mdb")
    ours, theirs = entries(tmp_path / "tiny.lmdb"), entries(copied)
    assert set(ours) == set(theirs)
    assert (tmp_path / "tiny.lmdb/meta_info.txt").read_text() == (recorded / "meta_info.txt").read_text()
    for key, value in theirs.items():
        one, two = (
            np.asarray(cv2.imdecode(np.frombuffer(v, np.uint8), cv2.IMREAD_UNCHANGED)) for v in (ours[key], value)
        )
        assert np.array_equal(one, two)
    if cv2.__version__.startswith("4."):  # another version may compress otherwise
        assert ours == theirs


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_lmdb_grows_beyond_its_first_map(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_writer, "_FIRST_MAP", 1 << 14)
    assert write_lmdb(folder, tmp_path / "hr.lmdb")[0] == 4


def test_lmdb_may_hold_the_files_as_they_are(folder: Path, tmp_path: Path) -> None:
    write_image(folder / "photo.jpg", noise(24, 32))
    write_lmdb(folder, tmp_path / "hr.lmdb", copy=True)
    assert entries(tmp_path / "hr.lmdb")[b"photo"] == (folder / "photo.jpg").read_bytes()


def test_grey_and_deep_images_keep_their_form_in_lmdb(tmp_path: Path) -> None:
    cv2.imwrite(str(_made(tmp_path / "hr") / "grey.png"), noise(8, 9)[..., 0])
    cv2.imwrite(str(tmp_path / "hr/deep.png"), noise(8, 9).astype(np.uint16) * 257)
    write_lmdb(tmp_path / "hr", tmp_path / "hr.lmdb")
    assert "grey.png (8,9,1) 1\n" in (tmp_path / "hr.lmdb/meta_info.txt").read_text()
    value = entries(tmp_path / "hr.lmdb")[b"deep"]
    assert np.asarray(cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_UNCHANGED)).dtype == np.uint16


@pytest.mark.parametrize(("writer", "suffix"), WRITERS)
def test_photographs_stand_upright(writer: Writer, suffix: str, tmp_path: Path) -> None:
    """As files of folders do; a new file does not say that its pixels lie on their side."""
    orientation = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    write_image(tmp_path / "hr/a.jpg", noise(8, 12))
    photo = (tmp_path / "hr/a.jpg").read_bytes()
    segment = b"\xff\xe1" + (len(orientation) + 2).to_bytes(2, "big") + orientation
    (tmp_path / "hr/a.jpg").write_bytes(photo[:2] + segment + photo[2:])
    upright = read_image(tmp_path / "hr/a.jpg")
    assert upright.shape == (12, 8, 3)
    writer(tmp_path / "hr", tmp_path / f"hr{suffix}")
    assert np.array_equal(list_singles([tmp_path / f"hr{suffix}"], [])[0].read(), upright)


def test_kinds_of_pixels_that_lmdb_does_not_take(tmp_path: Path) -> None:
    (_made(tmp_path / "hr") / "a.tif").write_bytes(bytes(cv2.imencode(".tif", np.ones((4, 4, 3), np.float32))[1]))
    with pytest.raises(InputError, match=r"a\.tif: expected 8 or 16 bits per channel, got float32"):
        write_lmdb(tmp_path / "hr", tmp_path / "hr.lmdb")


def test_images_beyond_the_decoders_limits(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    parts = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    chunks = [struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in parts]
    (_made(tmp_path / "hr") / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(InputError, match=r"a\.png: it has 60,000 x 60,000 pixels"):
        write_lmdb(tmp_path / "hr", tmp_path / "hr.lmdb")


@pytest.mark.parametrize(("writer", "suffix"), WRITERS)
def test_nothing_usable(writer: Writer, suffix: str, tmp_path: Path) -> None:
    (_made(tmp_path / "hr") / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="there is no usable image"):
        writer(tmp_path / "hr", tmp_path / f"hr{suffix}", skip_bad=True)
    assert not (tmp_path / f"hr{suffix}").exists()


@pytest.mark.parametrize(("writer", "suffix"), WRITERS)
def test_names_with_line_breaks(writer: Writer, suffix: str, tmp_path: Path) -> None:
    write_image(tmp_path / "hr/a\nb.png", noise(8, 8))
    with pytest.raises(InputError, match="the name holds a line break"):
        writer(tmp_path / "hr", tmp_path / f"hr{suffix}")


def content(folder: Path, suffix: str) -> dict[str, bytes]:
    """What the files of a finished data set hold; LMDB's own file depends on when it was committed."""
    if suffix == ".lmdb":
        kept = {key.decode(): value for key, value in entries(folder).items()}
        return {**kept, "meta": (folder / "meta_info.txt").read_bytes()}
    return {path.name: path.read_bytes() for path in folder.iterdir()}


_KILLED = """
import sys, time
from pathlib import Path
from data.prepare import common
decode = common.decode_image
def slow(*given, **named):
    time.sleep(0.02)
    return decode(*given, **named)
common.decode_image = slow
from data.prepare import common, lmdb_writer, pack_writer
value = lmdb_writer.value_of
lmdb_writer.value_of = lambda *given: (time.sleep(0.02), value(*given))[1]
source, target = map(Path, sys.argv[1:])
if target.suffix == ".pack":
    pack_writer.write_pack(source, target, shard_bytes=20000)
else:
    lmdb_writer.write_lmdb(source, target, commit_every=5)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.parametrize(("writer", "suffix", "more"), [
    (write_lmdb, ".lmdb", {"commit_every": 5}), (write_pack, ".pack", {"shard_bytes": 20000}),
])  # fmt: skip
def test_a_killed_run_goes_on(writer: Writer, suffix: str, more: Any, tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", [f"{i:03d}.png" for i in range(80)])
    target, part = tmp_path / f"hr{suffix}", tmp_path / f"hr{suffix}.part"
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "hr"), str(target)]
    with (tmp_path / "err").open("w") as stderr, start(command, ROOT, environment(), stderr=stderr) as run:

        def begun() -> bool:
            if suffix == ".pack":
                return (part / "shard-00001.bin.json").exists()
            return (part / "data.mdb").exists() and len(entries(part)) >= 5

        deadline = time.monotonic() + 60
        while not begun() and time.monotonic() < deadline:
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert part.exists()
    decoded: list[str] = []
    original = common.Picture.stored

    def counting(picture: Any) -> Any:
        decoded.append(picture.key)
        return original(picture)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common.Picture, "stored", counting)
        assert writer(tmp_path / "hr", target, **more)[0] == 80
    if suffix == ".pack":
        assert 0 < len(decoded) < 80
    assert not part.exists()
    writer(tmp_path / "hr", tmp_path / f"whole{suffix}", **more)
    assert content(target, suffix) == content(tmp_path / f"whole{suffix}", suffix)


def test_a_pack_is_begun_anew_where_its_images_have_changed(folder: Path, tmp_path: Path) -> None:
    def stop(*_: Any) -> int:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_writer, "write_index", stop)
        with pytest.raises(KeyboardInterrupt):
            write_pack(folder, tmp_path / "hr.pack", shard_bytes=1)
    write_image(folder / "b.c.png", noise(24, 32, 77))
    write_pack(folder, tmp_path / "hr.pack", shard_bytes=1)
    pack = Pack(tmp_path / "hr.pack")
    assert np.array_equal(pack.pixels(1), noise(24, 32, 77))


def test_an_lmdb_takes_images_again_that_have_changed(folder: Path, tmp_path: Path) -> None:
    def stop(*_: Any) -> list[str]:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lmdb_writer, "meta_lines", stop)
        with pytest.raises(KeyboardInterrupt):
            write_lmdb(folder, tmp_path / "hr.lmdb")
    write_image(folder / "b.c.png", noise(24, 32, 77))
    later = (tmp_path / "hr.lmdb.part/data.mdb").stat().st_mtime_ns + 10**9
    os.utime(folder / "b.c.png", ns=(later, later))
    write_lmdb(folder, tmp_path / "hr.lmdb")
    images = {image.name: image.read() for image in list_singles([tmp_path / "hr.lmdb"], [])}
    assert np.array_equal(images["b.c"], noise(24, 32, 77))


def test_shards_of_an_earlier_run_do_not_stay(folder: Path, tmp_path: Path) -> None:
    def stop(*_: Any) -> int:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_writer, "write_index", stop)
        with pytest.raises(KeyboardInterrupt):
            write_pack(folder, tmp_path / "hr.pack", shard_bytes=1)
    write_image(folder / NAMES[0], noise(24, 32, 77))  # the first of four shards: all are made anew
    write_pack(folder, tmp_path / "hr.pack")
    names = {path.name for path in (tmp_path / "hr.pack").iterdir()}
    assert names == {"index.json", "entries.npy", "keys.txt", "shard-00000.bin"}


def test_an_lmdb_begun_otherwise_is_not_mixed(folder: Path, tmp_path: Path) -> None:
    lmdb_writer.begin(tmp_path / "hr.lmdb.part", {"source": "elsewhere"})
    with pytest.raises(InputError, match=r"hr\.lmdb\.part was begun from another source"):
        write_lmdb(folder, tmp_path / "hr.lmdb")


@pytest.mark.parametrize(("writer", "suffix"), WRITERS)
def test_bad_images_stop_or_are_left_out(writer: Writer, suffix: str, folder: Path, tmp_path: Path) -> None:
    path = folder / "b.c.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"b\.c\.png: the image cannot be read: it is cut short"):
        writer(folder, tmp_path / f"hr{suffix}")
    count, left = writer(folder, tmp_path / f"hr{suffix}", skip_bad=True)
    assert count == 3
    assert len(left) == 1
    assert "b.c.png" in left[0]


@pytest.mark.parametrize(("writer", "suffix"), WRITERS)
def test_targets_that_cannot_be(writer: Writer, suffix: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"expected a name NAME\{suffix}"):
        writer(folder, tmp_path / "hr")
    (tmp_path / f"hr{suffix}").mkdir()
    with pytest.raises(InputError, match="exists already"):
        writer(folder, tmp_path / f"hr{suffix}")
    write_image(folder / "z.jpg", noise(8, 8))
    with pytest.raises(InputError, match="have the same name without extension"):
        writer(folder, tmp_path / f"other{suffix}")


def test_a_full_disk_is_one_message(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pack_writer, "append_shard", full)
        with pytest.raises(StorageError, match=r"the disk is full: .*shard-00000"):
            write_pack(folder, tmp_path / "hr.pack")

    def refused(message: str) -> Callable[..., None]:
        def commit(*_: Any) -> None:
            raise lmdb.DiskError(f"mdb_txn_commit: {message}")

        return commit

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_writer, "commit", refused("No space left on device"))
        with pytest.raises(StorageError, match=r"the disk is full: .*hr\.lmdb\.part could not be written"):
            write_lmdb(folder, tmp_path / "hr.lmdb")
        patch.setattr(lmdb_writer, "commit", refused("Input/output error"))
        with pytest.raises(StorageError, match=r"hr\.lmdb\.part could not be written: .*Input/output error"):
            write_lmdb(folder, tmp_path / "hr.lmdb")
        patch.setattr(lmdb_writer, "commit", refused("Disk quota exceeded"))
        with pytest.raises(StorageError, match="the disk is full: "):
            write_lmdb(folder, tmp_path / "hr.lmdb")
        patch.setattr(lmdb_writer, "commit", refused("Input/output error"))
        patch.setattr(lmdb_writer, "_LITTLE", 1 << 62)  # more than is free
        with pytest.raises(StorageError, match="the disk is full: "):
            write_lmdb(folder, tmp_path / "hr.lmdb")
    assert not (tmp_path / "hr.pack").exists()
    assert not (tmp_path / "hr.lmdb").exists()
    assert write_pack(folder, tmp_path / "hr.pack")[0] == 4
    assert write_lmdb(folder, tmp_path / "hr.lmdb")[0] == 4
