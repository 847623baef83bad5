"""What a user names is read where it is a regular file of a bounded size; nothing is waited for."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.reading import open_regular, read_regular, read_text, shown

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices in folders are POSIX's")


def test_a_text_is_read_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    for name, start in (("plain.txt", b""), ("marked.txt", b"\xef\xbb\xbf")):
        (tmp_path / name).write_bytes(start + "Grüße\n".encode())
        assert read_text(tmp_path / name) == "Grüße\n"


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "link") == b"abc"


@posix
def test_a_pipe_without_a_writer_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe, not a regular file"):
        open_regular(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: the list cannot be read: it is a pipe, not a regular file"):
        read_text(tmp_path / "pipe", "list")


@posix
def test_a_pipe_that_takes_the_place_of_the_file_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at it and its opening; the second look is at what was opened."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"abc")
    was = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "stat", lambda path: was)
    with pytest.raises(OSError, match="a pipe, not a regular file"):
        open_regular(tmp_path / "pipe")


@posix
def test_devices_sockets_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a device"):
        open_regular("/dev/zero")
    with pytest.raises(IsADirectoryError, match="a folder"):
        open_regular(tmp_path)
    here = Path.cwd()
    os.chdir(tmp_path)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket")
            with pytest.raises(OSError, match="a socket"):
                open_regular("socket")
    finally:
        os.chdir(here)


def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(11))
    assert len(read_regular(tmp_path / "file", 11)) == 11
    with pytest.raises(OSError, match="it has 11 bytes; at most 10 are read"):
        read_regular(tmp_path / "file", 10)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_file_that_tells_no_size_is_bounded_all_the_same() -> None:
    with pytest.raises(OSError, match="at most 10 are read"):
        read_regular("/proc/self/maps", 10)


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b", "", "x" * 6000])
def test_a_path_that_is_none_is_refused_as_an_absent_one_is(path: str) -> None:
    with pytest.raises(OSError, match=r"cannot hold|a folder|too long"):
        open_regular(path)
    with pytest.raises(InputError):
        read_text(path)


def test_text_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\nb\xff\n")
    with pytest.raises(InputError, match="file:2: not a text file in UTF-8"):
        read_text(tmp_path / "file")


def test_paths_in_messages_are_printable_and_bounded() -> None:
    assert shown("a b/c.yml") == "a b/c.yml"
    assert shown("a\0\nb\udcff") == r"a\x00\nb\udcff"
    assert shown("x" * 6000) == f"{'x' * 300}... (6,000 characters)"
