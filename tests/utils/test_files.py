"""Files are whole or absent; folders of earlier runs are kept."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from utils.errors import InputError, StorageError
from utils.files import (
    archive_existing,
    atomic_write,
    check_folder,
    check_writable,
    make_folder,
    remove_unfinished,
    storage_error,
    unfinished,
    write_json,
    write_text,
)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_file_takes_the_place_of_no_pipe_or_device(tmp_path: Path) -> None:
    """As root, a list written to /dev/null would leave the system without it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for path in (pipe, tmp_path / "link"):
        with pytest.raises(InputError, match=f"{path.name} is a pipe or a device, not a file"):
            check_writable(path)
        with pytest.raises(InputError, match="is a pipe or a device"), atomic_write(path):
            pytest.fail("it is open for writing")
        assert pipe.is_fifo()
    with pytest.raises(InputError, match="null is a pipe or a device"):
        check_writable(Path(os.devnull))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["link", "pipe"]


def test_atomic_write_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "Grüße\n")
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "Grüße\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_written_json_reads_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"é": [1, None]}


def test_an_exception_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half of the new")
        raise RuntimeError("killed")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pth"]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_what_a_killed_run_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    target = tmp_path / "a[1].png"
    assert unfinished(target).parent == tmp_path
    names = [".a[1].png.7.part", ".a1.png.7.part", ".a[1].png.x.part", "a[1].png.7.part", ".b.png.7.part"]
    for name in names:
        (tmp_path / name).write_bytes(b"begun")
    with atomic_write(target) as file:
        file.write(b"whole")
        remove_unfinished([target, tmp_path / "nowhere/c.png"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], target.name])
    assert target.read_bytes() == b"whole"


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"disk is full: .*weights\.pth"):
        write_text(path, "new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pth"]


def test_a_file_in_the_way_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a folder"):
        write_text(tmp_path / "file" / "below", "x")
    with pytest.raises(InputError, match="is a file, not a folder"):
        make_folder(tmp_path / "file")


def test_file_names_that_cannot_be_written_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="it is a folder; remove it or choose another name"):
        write_text(tmp_path / "folder", "x")
    with pytest.raises(InputError, match="the name is too long; choose a shorter one"):
        write_text(tmp_path / ("x" * 300), "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (errno.EACCES, InputError, "no permission"),
        (errno.EROFS, InputError, "no permission"),
        (errno.EDQUOT, StorageError, "disk is full"),
        (errno.EISDIR, InputError, "it is a folder"),
        (errno.ENAMETOOLONG, InputError, "the name is too long"),
        (errno.EIO, StorageError, "Input/output error"),
    ],
)
def test_storage_errors_are_sorted_by_who_can_fix_them(number: int, kind: type[Exception], text: str) -> None:
    error = storage_error(Path("x"), OSError(number, "Input/output error"))
    assert isinstance(error, kind)
    assert text in str(error)


def test_archiving_a_folder_keeps_everything(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert archive_existing(run) is None
    for content in "ab":
        run.mkdir()
        (run / "a").write_text(content)
        moved = archive_existing(run)
        assert moved is not None
        assert moved.name.startswith("run_archived_20")
        assert (moved / "a").read_text() == content
    assert len(list(tmp_path.iterdir())) == 2  # two within one second do not collide


def test_what_cannot_be_written_is_known_before_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    before = sorted(tmp_path.iterdir())
    check_folder(tmp_path / "a" / "b")
    check_writable(tmp_path / "a" / "b.png")
    check_writable(tmp_path / "file")  # would be replaced
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "a" / "b", tmp_path / "link" / "a"):
        with pytest.raises(InputError, match=r"a cannot be written: a part of this path is a file|b cannot be written"):
            check_folder(path)
        with pytest.raises(InputError, match="a part of this path is a file"):
            check_writable(path)
    with pytest.raises(InputError, match="it is a folder; remove it or choose another name"):
        check_writable(tmp_path)
    with pytest.raises(InputError, match="the name is too long"):
        check_writable(tmp_path / ("a" * 300))
    for number, kind in ((errno.EACCES, InputError), (errno.EROFS, InputError), (errno.ENOSPC, StorageError)):

        def refused(dir: Path, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("tempfile.TemporaryFile", refused)
        with pytest.raises(kind):
            check_folder(tmp_path / "a")
    assert sorted(tmp_path.iterdir()) == before
