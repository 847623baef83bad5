"""Who can have written a file: nobody but the user and root, all the way to it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from utils.errors import InputError
from utils.trust import distrust, private_folder, refuse_distrusted

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="rights of Unix")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the user, whatever umask says."""
    tmp_path.chmod(0o700)
    return tmp_path


def test_files_of_the_user_are_trusted_and_what_is_not_there_too(folder: Path) -> None:
    file = folder / "file"
    file.touch(0o600)
    assert distrust(file) is None
    assert distrust(folder / "a" / "b") is None
    assert distrust(file / "below a file") is None


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o702])
def test_a_folder_on_the_way_that_everybody_can_write(folder: Path, mode: int) -> None:
    place = folder / "open"
    place.mkdir()
    (place / "file").touch(0o600)
    place.chmod(mode)
    for path in (place, place / "file", place / "absent" / "file", folder / "x" / ".." / "open" / "file"):
        if path.parts[-3] == "..":
            (folder / "x").mkdir()
        assert distrust(path) == (place, "can be written by everybody")


def test_the_sticky_bit_protects_what_belongs_to_the_user(folder: Path) -> None:
    place = folder / "temporary files"
    place.mkdir()
    (place / "mine").mkdir(0o700)
    place.chmod(0o1777)
    assert distrust(place / "mine") is None
    assert distrust(place) == (place, "can be written by everybody")  # others can put something beside


def test_links_are_followed(folder: Path) -> None:
    (folder / "open" / "cache").mkdir(parents=True)
    (folder / "open" / "cache").chmod(0o700)
    (folder / "open").chmod(0o777)
    (folder / "whole").symlink_to(folder / "open" / "cache")
    (folder / "short").symlink_to("open/../open/cache")
    (folder / "around").symlink_to("around")
    for name in ("whole", "short"):
        assert distrust(folder / name / "file") == (folder / "open", "can be written by everybody")
    assert distrust(folder / "around") == (folder / "around", "links to itself")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another(folder: Path) -> None:
    for name in ("file", "folder", "link"):
        path = folder / name
        if name == "link":
            path.symlink_to("file")
        elif name == "folder":
            path.mkdir()
        else:
            path.touch(0o600)
        os.chown(path, 54321, -1, follow_symlinks=False)
        assert distrust(path) == (path, "belongs to user 54321")
    with pytest.raises(InputError, match=r"belongs to user 54321, .*; set FOCALSR_CACHE to a"):
        refuse_distrusted(folder / "folder" / "cache", folder / "folder" / "cache")
    with pytest.raises(InputError, match="remove it, and it is made again, or set FOCALSR_CACHE"):
        refuse_distrusted(folder / "folder", folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_folders_of_users_outside_of_a_container_are_passed_through(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user namespace without root, what belongs to root seems to belong to nobody."""
    place = folder / "of root" / "home" / "cache"
    place.mkdir(parents=True)
    os.chown(folder / "of root", 54321, -1)
    assert distrust(place) == (folder / "of root", "belongs to user 54321")
    looked_at = os.lstat

    def not_below_temporary_files(path: Path) -> os.stat_result:
        return looked_at(path if Path(path).is_relative_to(folder) else "/")

    monkeypatch.setattr(os, "lstat", not_below_temporary_files)
    monkeypatch.setattr("utils.trust._outside", lambda: 54321)
    assert distrust(place) is None
    assert distrust(folder / "of root") == (folder / "of root", "belongs to user 54321")  # not itself, which is loaded
    (folder / "of root").chmod(0o777)
    assert distrust(place) is not None
    (folder / "of root").chmod(0o755)
    folder.chmod(0o1777)  # where anybody could have made it
    assert distrust(place) == (folder / "of root", "belongs to user 54321")


def test_a_group_may_write_where_it_has_the_user_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grp, pwd = pytest.importorskip("grp"), pytest.importorskip("pwd")
    file = folder / "file"
    file.touch()
    file.chmod(0o664)
    user, group = os.geteuid(), file.stat().st_gid
    me = SimpleNamespace(pw_name="me", pw_uid=user, pw_gid=group)
    colleague = SimpleNamespace(pw_name="colleague", pw_uid=54321, pw_gid=group)
    accounts = [me]

    def named(name: str) -> SimpleNamespace:
        return next(account for account in accounts if account.pw_name == name)

    def group_is(name: str, *members: str) -> None:
        monkeypatch.setattr(grp, "getgrgid", lambda number: SimpleNamespace(gr_name=name, gr_mem=list(members)))

    monkeypatch.setattr(pwd, "getpwall", lambda: accounts)
    monkeypatch.setattr(pwd, "getpwnam", named)
    group_is("me")
    assert distrust(file) is None
    group_is("me", "me")
    assert distrust(file) is None
    group_is("me", "me", "friend")
    assert distrust(file) == (file, "can be written by the group me")
    group_is("me")
    accounts.append(colleague)  # whose first group it is
    assert distrust(file) == (file, "can be written by the group me")

    def unknown(name: str) -> SimpleNamespace:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", unknown)
    group_is("physics")
    assert distrust(file) == (file, "can be written by the group physics")
    monkeypatch.setattr(grp, "getgrgid", unknown)
    assert distrust(file) == (file, f"can be written by the group {group}")


def test_private_folders_are_open_to_the_user_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        made = private_folder(folder / "a" / "b")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (made, made.parent)] == [0o700, 0o700]
    assert private_folder(made) == made
    (folder / "file").touch()
    with pytest.raises(InputError, match="a part of this path is a file"):
        private_folder(folder / "file" / "a")
    with pytest.raises(InputError, match="a part of this path is a file"):
        private_folder(folder / "file")
