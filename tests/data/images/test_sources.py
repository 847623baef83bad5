from __future__ import annotations

import io
import multiprocessing
import os
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest

from data.images.listing import list_pairs
from data.images.lmdb_pages import needed_bytes
from data.images.sources import FileImage, LmdbImage, lmdb_images
from data.prepare.check import check_images
from tests.data.pictures import forbid, noise, write_folder
from utils.errors import InputError


def write_lmdb(folder: Path, keys: list[str], lines: list[str] | None = None, height: int = 8, width: int = 10) -> Path:
    """An LMDB folder in BasicSR's form."""
    with lmdb.open(str(folder), map_size=2**22) as environment, environment.begin(write=True) as transaction:
        for seed, key in enumerate(keys):
            png = cv2.imencode(".png", noise(height, width, seed)[..., ::-1])[1]
            transaction.put(key.encode(), png.tobytes())
    listing = lines or [f"{key}.png ({height},{width},3) 1" for key in keys]
    (folder / "meta_info.txt").write_text("\n".join(listing) + "\n")
    return folder


def read_in_child(image: LmdbImage, connection: multiprocessing.connection.Connection) -> None:
    connection.send(int(image.read().sum()))


def test_files(tmp_path: Path) -> None:
    (path,) = write_folder(tmp_path, ["a.b.png"])
    image = FileImage(path)
    assert (image.name, image.label) == ("a.b", str(path))
    assert np.array_equal(image.read(), noise(24, 32))


@pytest.mark.shared
def test_recorded_lmdb(shared: Path) -> None:
    with np.load(shared / "golden/formats/tiny_lmdb_images.npz") as arrays:
        images = lmdb_images(shared / "golden/formats/tiny.lmdb")
        assert [image.key for image in images] == sorted(arrays.files)
        for image in images:
            expected = arrays[image.key]
            if expected.ndim == 2:
                expected = np.repeat(expected[..., None], 3, axis=2)
            assert np.array_equal(image.read(), expected)


def test_keys_with_points_spaces_and_folders(tmp_path: Path) -> None:
    folder = write_lmdb(tmp_path / "a.lmdb", ["x.y", "one two", "sub/z"])
    assert [(image.key, image.name) for image in lmdb_images(folder)] == [
        ("one two", "one two"), ("sub/z", "z"), ("x.y", "x.y"),
    ]  # fmt: skip
    assert np.array_equal(lmdb_images(folder)[2].read(), noise(8, 10, 0))


def test_lines_of_another_form_end_at_the_first_point(tmp_path: Path) -> None:
    folder = write_lmdb(tmp_path / "a.lmdb", ["a", "b"], ["b.png", "a.png 1"])
    assert [image.key for image in lmdb_images(folder)] == ["a", "b"]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_reads_too(tmp_path: Path) -> None:
    image = lmdb_images(write_lmdb(tmp_path / "a.lmdb", ["a"]))[0]
    expected = int(image.read().sum())  # opened here first
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=read_in_child, args=(image, there))
    process.start()
    assert here.poll(20)
    assert here.recv() == expected
    process.join()
    assert process.exitcode == 0
    assert int(image.read().sum()) == expected


def test_lmdb_pairs(tmp_path: Path) -> None:
    gt = write_lmdb(tmp_path / "gt.lmdb", ["b", "a"], height=16, width=20)
    lq = write_lmdb(tmp_path / "lq.lmdb", ["a", "b"])
    pairs = list_pairs([gt], [lq], [], "{}x2")
    assert [(pair.gt.name, pair.lq and pair.lq.name) for pair in pairs] == [("a", "a"), ("b", "b")]
    other = write_lmdb(tmp_path / "other.lmdb", ["a", "c"])
    with pytest.raises(InputError, match="1 high-resolution without low-resolution: b"):
        list_pairs([gt], [other], [], "{}")
    assert [pair.lq for pair in list_pairs([gt], [], [], "{}")] == [None, None]


def test_what_is_no_lmdb_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.lmdb does not exist: expected a folder NAME\.lmdb"):
        lmdb_images(tmp_path / "gone.lmdb")
    (tmp_path / "empty.lmdb").mkdir()
    with pytest.raises(InputError, match="is no LMDB data set"):
        lmdb_images(tmp_path / "empty.lmdb")
    folder = write_lmdb(tmp_path / "bare.lmdb", ["a"], ["", " "])
    with pytest.raises(InputError, match="lists no images"):
        lmdb_images(folder)
    (folder / "meta_info.txt").write_text("b.png (8,10,3) 1\n")
    with pytest.raises(InputError, match="no entry b"):
        lmdb_images(folder)[0].read()
    (folder / "data.mdb").write_bytes(b"rubbish")
    broken = write_lmdb(tmp_path / "broken.lmdb", ["a"])
    (broken / "data.mdb").write_bytes(b"rubbish" * 2000)
    with pytest.raises(InputError, match="cannot be opened"):
        lmdb_images(broken)[0].read()


def test_threads_share_one_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_lmdb(tmp_path / "a.lmdb", ["a"])
    opens = []
    original = lmdb.open

    def slow(*arguments: Any, **options: Any) -> Any:
        opens.append(arguments)
        time.sleep(0.05)
        return original(*arguments, **options)

    monkeypatch.setattr(lmdb, "open", slow)
    images = lmdb_images(folder)
    with ThreadPoolExecutor(4) as pool:
        shapes = list(pool.map(lambda _: images[0].read().shape, range(8)))
    assert len(set(shapes)) == 1
    assert len(opens) == 1


def test_lmdb_that_is_cut_short_is_named(tmp_path: Path) -> None:
    folder = write_lmdb(tmp_path / "a.lmdb", ["a", "b"], height=100, width=100)
    data = folder / "data.mdb"
    whole = data.read_bytes()
    with data.open("r+b") as file:
        file.truncate(len(whole) // 2)
    with pytest.raises(InputError, match=r"data\.mdb is cut short \([\d,]+ of [\d,]+ bytes\); copy it again"):
        lmdb_images(folder)[0].read()
    assert len(check_images(folder).unreadable) == 1  # not once for each image
    data.write_bytes(whole)
    assert lmdb_images(folder)[1].read().shape == (100, 100, 3)


def read_all(folder: Path, connection: multiprocessing.connection.Connection) -> None:
    try:
        connection.send(sum(int(image.read().sum()) for image in lmdb_images(folder)))
    except InputError as error:
        connection.send(str(error))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_not_a_page_can_be_cut_off_without_a_word(tmp_path: Path) -> None:
    """Reading what is missing would end the process, so another one reads it."""
    folder = write_lmdb(tmp_path / "a.lmdb", [f"{i:0200}" for i in range(60)], height=40, width=40)
    with lmdb.open(str(folder), readonly=True, lock=False) as environment:
        assert environment.stat()["depth"] > 1
    data = folder / "data.mdb"
    whole = data.read_bytes()
    context = multiprocessing.get_context("fork")
    said = []
    for cut in (0, 1, 4096, 8192, 40_000, len(whole) - 12_000):
        data.write_bytes(whole[: len(whole) - cut])
        here, there = context.Pipe()
        process = context.Process(target=read_all, args=(folder, there))
        process.start()
        assert here.poll(60)
        said.append(here.recv())
        process.join()
        assert process.exitcode == 0
    assert said[1] == said[0] or "cut short" in str(said[1])  # the rest of the last page is empty, or not
    assert all("data.mdb is cut short" in str(text) for text in said[2:])


@pytest.mark.skipif(sys.platform == "win32", reason="pipes in folders are POSIX's")
@pytest.mark.parametrize("depth", [2, 32, 65_535])
def test_pages_that_lead_to_themselves_have_an_end(depth: int) -> None:
    """A damaged tree whose branches lead back would be walked 2 ** depth times."""
    meta = struct.pack("<16xI4x16x48x4x2xHQQQQQQQ", 0xBEEFC0DE, depth, 1, 1, 0, 2, 2, 9, 1)
    node = struct.pack("<HHHH", 2, 0, 0, 0)  # page 2, no key
    branch = struct.pack("<QHHHHHH", 2, 0, 1, 20, 4080, 4000, 4000).ljust(4000, b"\0") + node
    pages = io.BytesIO(b"".join(page.ljust(4096, b"\0") for page in (meta, meta, branch)))
    assert needed_bytes(pages, 4096) is None


def test_a_pipe_in_the_place_of_a_data_set_is_not_waited_for(tmp_path: Path) -> None:
    folder = write_lmdb(tmp_path / "a.lmdb", ["a"])
    images = lmdb_images(folder)
    (folder / "data.mdb").unlink()
    os.mkfifo(folder / "data.mdb")
    with pytest.raises(InputError, match=r"cannot be opened: .*a pipe, not a regular file"):
        images[0].read()
    (folder / "meta_info.txt").unlink()
    os.mkfifo(folder / "meta_info.txt")
    with pytest.raises(InputError, match="is no LMDB data set"):
        lmdb_images(folder)


def test_lmdb_whose_last_pages_were_never_written_is_whole(tmp_path: Path) -> None:
    """As happens where entries were removed."""
    folder = write_lmdb(tmp_path / "a.lmdb", ["a"])
    with lmdb.open(str(folder), map_size=2**20) as environment:
        for sizes in ({"x": 60000, "y": 60000, "z": 60000}, {"y": 60000}, {"y": 9000}):
            with environment.begin(write=True) as transaction:
                for key, size in sizes.items():
                    transaction.put(key.encode(), bytes(size))
                if sizes == {"y": 9000}:
                    transaction.delete(b"y")
        last, page = environment.info()["last_pgno"], environment.stat()["psize"]
    assert (last + 1) * page > (folder / "data.mdb").stat().st_size
    assert np.array_equal(lmdb_images(folder)[0].read(), noise(8, 10, 0))


def test_lists_of_lmdb_in_other_encodings(tmp_path: Path) -> None:
    folder = write_lmdb(tmp_path / "a.lmdb", ["a", "é"])
    listing = folder / "meta_info.txt"
    listing.write_text("a.png (8,10,3) 1\né.png (8,10,3) 1\n", encoding="utf-8-sig")
    assert [image.read().shape for image in lmdb_images(folder)] == [(8, 10, 3)] * 2
    listing.write_text("a.png (8,10,3) 1\né.png (8,10,3) 1\n", encoding="latin-1")
    with pytest.raises(InputError, match=r"meta_info\.txt: the list is not UTF-8 \(byte 17\)"):
        lmdb_images(folder)


@pytest.mark.parametrize("name", ["data.mdb", "meta_info.txt"])
def test_lmdb_without_permission(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_lmdb(tmp_path / "a.lmdb", ["a"])
    forbid(monkeypatch, "stat", folder / name)
    with pytest.raises(InputError, match=f"{name}: the file cannot be read: Permission denied"):
        lmdb_images(folder)


def test_list_of_lmdb_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_lmdb(tmp_path / "a.lmdb", ["a"])
    forbid(monkeypatch, "open", folder / "meta_info.txt")
    with pytest.raises(InputError, match=r"meta_info\.txt: the file cannot be read: Permission denied"):
        lmdb_images(folder)
