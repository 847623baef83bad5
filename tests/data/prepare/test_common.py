"""What all ways of preparing share: folders that one process has for itself, settings that are not mixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.images.files import write_image
from data.prepare import common
from data.prepare.lmdb_writer import write_lmdb
from data.prepare.lowres import make_low_resolution
from data.prepare.pack_writer import write_pack
from data.prepare.subimages import Grid, cut_subimages
from tests.data.pictures import noise, write_folder
from utils import lock
from utils.errors import InputError


def cut(source: Path, target: Path) -> Any:
    return cut_subimages(source, target, Grid(16, 16))


def shrink(source: Path, target: Path) -> Any:
    return make_low_resolution(source, target, [2])


@pytest.mark.parametrize(
    ("prepare", "target", "working"),
    [
        (cut, "sub", "sub"),
        (shrink, "lr", "lr/X2"),
        (write_lmdb, "a.lmdb", "a.lmdb.part"),
        (write_pack, "a.pack", "a.pack.part"),
    ],
)
def test_a_folder_is_prepared_by_one_process(
    prepare: Callable[[Path, Path], Any], target: str, working: str, tmp_path: Path
) -> None:
    write_folder(tmp_path / "hr", ["a.png"])
    with common.exclusive(tmp_path / working), pytest.raises(InputError, match="another process prepares data here"):
        prepare(tmp_path / "hr", tmp_path / target)
    assert not (tmp_path / working).exists()  # nothing was written
    prepare(tmp_path / "hr", tmp_path / target)


@pytest.mark.parametrize(("write", "target"), [(write_lmdb, "a.lmdb"), (write_pack, "a.pack")])
def test_what_another_process_has_just_finished_is_let_alone(
    write: Callable[[Path, Path], Any], target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "hr", ["a.png"])
    acquire = lock.exclusive

    def quicker(folder: Path, doing: str) -> Any:
        monkeypatch.setattr(lock, "exclusive", acquire)
        write(tmp_path / "hr", tmp_path / target)  # by the other process, before this one has the lock
        return acquire(folder, doing)

    monkeypatch.setattr(lock, "exclusive", quicker)
    with pytest.raises(InputError, match="exists already"):
        write(tmp_path / "hr", tmp_path / target)
    assert sorted(path.name for path in tmp_path.iterdir()) == [target, "hr"]


def test_settings_are_not_mixed(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.png"], 32, 32)
    with pytest.raises(InputError, match="smaller than the sub-images"):
        cut_subimages(tmp_path / "hr", tmp_path / "sub", Grid(99, 10))  # which has made nothing yet
    cut_subimages(tmp_path / "hr", tmp_path / "sub", Grid(16, 8))
    cut_subimages(tmp_path / "hr", tmp_path / "sub", Grid(16, 8), compression=9)
    expected = "made with crop_size 16, step 8, thresh_size 0, not with crop_size 16, step 16, thresh_size 0; remove it"
    with pytest.raises(InputError, match=expected):
        cut_subimages(tmp_path / "hr", tmp_path / "sub", Grid(16, 16))
    make_low_resolution(tmp_path / "hr", tmp_path / "lr", [2])
    with pytest.raises(InputError, match="X2 holds files that were made with rule published, not with rule double"):
        make_low_resolution(tmp_path / "hr", tmp_path / "lr", [2], rule="double")
    assert json.loads((tmp_path / "lr/X2" / common.SETTINGS).read_text()) == {"rule": "published"}


def test_files_without_content_are_made_again(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.png"])
    make_low_resolution(tmp_path / "hr", tmp_path / "lr", [2])
    small = tmp_path / "lr/X2/ax2.png"
    small.write_bytes(b"")  # as after a power failure
    make_low_resolution(tmp_path / "hr", tmp_path / "lr", [2])
    assert small.stat().st_size


def test_names_as_long_as_can_be(tmp_path: Path) -> None:
    name = "x" * 246
    write_image(tmp_path / "hr/a.png", noise(16, 16))
    (tmp_path / "hr/a.png").rename(tmp_path / f"hr/{name}.png")
    cut(tmp_path / "hr", tmp_path / "sub")
    assert (tmp_path / f"sub/{name}_s001.png").is_file()
    (tmp_path / f"hr/{name}.png").rename(tmp_path / f"hr/{name}yy.png")
    with pytest.raises(InputError, match=r"yy\.png: its files cannot be written: .*name too long"):
        cut(tmp_path / "hr", tmp_path / "sub2")
