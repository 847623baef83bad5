"""The user's cache, and which files only the user and root can have written: code is loaded from no others."""

from __future__ import annotations

import os
import stat
import sys
from collections import deque
from pathlib import Path

from utils.errors import InputError
from utils.files import storage_error

CACHE = "FOCALSR_CACHE"
_MOST_LINKS = 40  # on the way to a file, as the system has it


def cache_root() -> Path:
    """The folder for what can be made again, of this user.

    Raises:
        InputError: the user has no home folder.
    """
    chosen, base = os.environ.get(CACHE), os.environ.get("XDG_CACHE_HOME")
    try:
        if chosen:
            return Path(chosen).expanduser()
        return (Path(base) if base else Path.home() / ".cache") / "focalsr"
    except RuntimeError as error:  # neither HOME nor an entry for the user
        raise InputError(
            f"there is no home folder to keep compiled code in; set {CACHE} to a folder of your own"
        ) from error


def private_cache(name: str) -> Path:
    """A folder of the cache for code that others make, such as compilers of torch; made where it does not exist.

    Raises:
        InputError: it cannot be made, or others could have put something there.
        StorageError: the disk is full or broken.
    """
    root = cache_root()
    refuse_distrusted(root, root)
    refuse_distrusted(private_folder(root / name), root)
    return root / name


def refuse_distrusted(path: Path, cache: Path) -> None:
    """Make sure that nobody but the user and root can have written what lies at a path in the cache.

    Raises:
        InputError: somebody else could; the sentence says why, and what to do.
    """
    found = distrust(path)
    if found is None:
        return
    place, reason = found
    if place.is_relative_to(cache.resolve()):
        remedy = "remove it, and it is made again, or "
    elif reason.startswith("belongs"):  # a home folder with sudo, or a volume in a container: it is to stay as it is
        remedy = ""
    else:
        remedy = "let nobody else write there (chmod go-w) or "
    raise InputError(
        f"{place} {reason}, and code that others could have put there is not run; {remedy}set {CACHE} to a folder "
        "of your own"
    )


def distrust(path: Path) -> tuple[Path, str] | None:
    """Where and why somebody else could have put what lies at a path; None where only the user and root could.

    Looks at every folder on the way, links followed, and at the file or folder itself: all must belong to the user or
    to root, and nobody else may write to them. Folders with the sticky bit, such as those for temporary files, are
    passed through, since nobody can replace there what belongs to another. A group may write where it is the user's
    own (named like the user, without other members), as is usual with umask 002. What passes stays as it is until it
    is used: nobody else can change a part of the way. Of what does not exist, the way to it is looked at.

    In containers that need no privileges, all that belongs to users outside, root included, seems to belong to
    nobody: such folders are passed through as root's, but none behind a folder with the sticky bit.

    Systems without such rights (Windows) have nothing to object.
    """
    if sys.platform == "win32":
        return None
    place, ahead, links = Path("/"), deque(path.absolute().parts[1:]), 0
    outside = _outside()
    if (reason := _objection(os.lstat(place), last=not ahead, root=outside)) is not None:
        return place, reason
    while ahead:
        name = ahead.popleft()
        if name == "..":
            place = place.parent
            continue
        entry = place / name
        try:
            status = os.lstat(entry)
        except OSError:  # there is nothing, or nothing that this process could use
            return None
        if (reason := _objection(status, last=not ahead, root=outside)) is not None:
            return entry, reason
        if status.st_mode & stat.S_ISVTX:
            outside = 0
        if not stat.S_ISLNK(status.st_mode):
            place = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            return entry, "links to itself"
        target = entry.readlink()
        if target.is_absolute():
            place = Path("/")
        ahead.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))
    return None


def private_folder(path: Path) -> Path:
    """The folder, made with its parents where it did not exist; what is made is open to the user alone (0700).

    Raises:
        InputError: it cannot be made there.
        StorageError: the disk is full or broken.
    """
    try:
        for place in reversed([place for place in (path, *path.parents) if not place.exists()]):
            place.mkdir(0o700, exist_ok=True)
        path.mkdir(0o700, exist_ok=True)  # says what is wrong where it is no folder
    except OSError as error:
        raise storage_error(path, error) from error
    return path


def _objection(status: os.stat_result, *, last: bool, root: int) -> str | None:
    """What speaks against a file, folder or link on the way; ``root``: who root may seem to be, but for the last."""
    if status.st_uid not in _trusted() and (last or status.st_uid != root):
        return f"belongs to {_user(status.st_uid)}"
    mode = status.st_mode
    if stat.S_ISLNK(mode) or (stat.S_ISDIR(mode) and mode & stat.S_ISVTX and not last):
        return None
    if mode & stat.S_IWOTH:
        return "can be written by everybody"
    if mode & stat.S_IWGRP and not _own_group(status.st_gid):
        return f"can be written by the group {_group(status.st_gid)}"
    return None


def _outside() -> int:
    """Who all users that this user namespace does not know seem to be, where root is one of them; else root."""
    try:
        known = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
        if known and all(first > 0 for first, *_ in known):
            return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):  # not Linux
        pass
    return 0


def _trusted() -> tuple[int, int]:
    return 0, os.geteuid()


def _own_group(number: int) -> bool:
    """Whether a group is that of one user, who is trusted: it has the user's name, and no other member."""
    import grp
    import pwd

    try:
        group = grp.getgrgid(number)
        owner = pwd.getpwnam(group.gr_name)
    except KeyError:
        return False
    others = set(group.gr_mem) | {user.pw_name for user in pwd.getpwall() if user.pw_gid == number}
    return owner.pw_uid in _trusted() and owner.pw_gid == number and others <= {owner.pw_name}


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _group(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
