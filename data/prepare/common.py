"""What all ways of preparing a data set share: what is prepared, and files that are never seen half-written."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from data.images.faults import SHOWN, fault_of
from data.images.files import Pixels, decode_image, encode_image
from data.images.kinds import is_picture_name
from data.images.listing import list_singles
from data.images.pack import INDEX, PackImage, open_pack
from data.images.sources import FileImage, ImageSource, LmdbImage
from utils import lock
from utils.errors import InputError
from utils.files import make_folder, storage_error, write_json
from utils.log import get_logger

Item = TypeVar("Item")
Result = TypeVar("Result")
UNFINISHED = ".part"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
SETTINGS = ".settings.json"  # beside the files that were made with them


@dataclass(frozen=True)
class Picture:
    """One image to prepare.

    Attributes:
        source: where it is.
        key: its name in what is made of it, without extension; may hold folders.
    """

    source: ImageSource
    key: str

    def stored(self) -> Pixels:
        """uint8 [H, W, 3] RGB, or [H, W, 1] where the file is grey; raises InputError when it cannot be read."""
        if isinstance(self.source, PackImage):
            return open_pack(self.source.folder).pixels(self.source.number)
        assert isinstance(self.source, FileImage | LmdbImage)
        return decode_image(self.source.content(), self.source.label, keep_grey=True)

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and time of change of the file that holds it; tells a resumed command that it is still the same.

        Raises:
            InputError: the file is gone.
        """
        if isinstance(self.source, FileImage):
            path = self.source.path
        elif isinstance(self.source, PackImage):
            path = self.source.folder / INDEX
        else:
            assert isinstance(self.source, LmdbImage)
            path = self.source.folder / "data.mdb"
        return stamp_of(path)


def pictures(folder: Path, meta_file: Path | None = None) -> list[Picture]:
    """The images of a folder, an LMDB data set or a pack, in its order, each with a name of its own.

    Raises:
        InputError: the folder cannot be read, or two of its images have the same name without extension.
    """
    found: dict[str, Picture] = {}
    for source in list_singles([folder], [] if meta_file is None else [meta_file]):
        if isinstance(source, FileImage):
            key = source.path.relative_to(folder).with_suffix("").as_posix()
        else:
            assert isinstance(source, LmdbImage | PackImage)
            key = source.key
        if key in found:
            raise InputError(
                f"{source.label} and {found[key].source.label} have the same name without extension; rename one"
            )
        found[key] = Picture(source, key)
    return list(found.values())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name, then rename it: whoever looks sees all of it or nothing.

    Unlike ``utils.files.atomic_write`` it does not wait for the disk, which would take longer than the work on the
    hundred thousands of small files that are written here; :func:`writing_to` waits once for all of them.

    Raises:
        StorageError: the disk is full or broken.
        InputError: the folder cannot be written.
    """
    make_folder(path.parent)
    # Not the final name and more: that may already be as long as names can be.
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}{UNFINISHED}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def write_picture(path: Path, image: Pixels, compression: int | None = None) -> None:
    """:func:`write_whole` of an image as the kind that the suffix names."""
    write_whole(path, encode_image(path.suffix, image, compression))


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Make ``folder``, and keep other processes from preparing it at the same time.

    Raises:
        InputError: another process is preparing it, or it cannot be made.
    """
    with lock.exclusive(folder, "prepares data"):
        make_folder(folder)
        try:
            yield
        finally:
            with suppress(OSError):  # it holds something, or has got its final name: else nothing came of it
                folder.rmdir()


@contextmanager
def writing_to(folder: Path, settings: Mapping[str, object] | None = None) -> Iterator[None]:
    """Around the writing of many files: at the end they are on the disk, and what a killed run left half is gone.

    Args:
        folder: where they are written, by this process alone.
        settings: what they are made with. Files that were made with others are not mixed with them, since those of an
            earlier run are kept; None: does not matter.

    Raises:
        InputError: the folder holds files that were made with other settings, or another process is writing there.
    """
    with exclusive(folder):
        if settings is not None:
            _check_settings(folder, settings)
        yield
        finish_writing(folder)


def finish_writing(folder: Path) -> None:
    """Wait until what was written is on the disk, and remove what a killed run left half in ``folder``."""
    if hasattr(os, "sync"):
        os.sync()
    for leftover in folder.glob(f".*{UNFINISHED}"):
        leftover.unlink(missing_ok=True)


def _check_settings(folder: Path, settings: Mapping[str, object]) -> None:
    path = folder / SETTINGS
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        earlier = None
    if earlier == settings:
        return
    if earlier and any(not item.name.startswith(".") for item in folder.iterdir()):
        was, now = (", ".join(f"{key} {value}" for key, value in some.items()) for some in (earlier, settings))
        raise InputError(
            f"{folder} holds files that were made with {was}, not with {now}; remove it or choose another folder"
        )
    write_json(path, settings)


def is_up_to_date(targets: Sequence[Path], source: Path) -> bool:
    """Whether all files that are made of ``source`` are there, none older than it, and all whole.

    After a power failure a file system may hold a name whose bytes were lost, or the last of them.

    Raises:
        InputError: the source is gone, or the name of a target cannot be.
    """
    changed = stamp_of(source)[1]
    try:
        found = [target.stat() for target in targets]
        if not all(file.st_size and file.st_mtime_ns >= changed for file in found):
            return False
        return all(has_png_end(target) for target in targets if target.suffix == ".png")
    except FileNotFoundError:
        return False
    except OSError as error:  # above all names that are too long, which is not the machine's fault
        raise InputError(f"{source}: its files cannot be written: {error.strerror or error}: {targets[0]}") from error


def has_png_end(path: Path) -> bool:
    """Whether a PNG file ends as such files do, so that none of its bytes were lost at the end.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(_PNG_END)))
        return file.read() == _PNG_END


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of change of a file; raises InputError when it is gone."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read: {error.strerror or error}") from error
    return found.st_size, found.st_mtime_ns


def check_text_target(target: Path) -> None:
    """Refuse to write text in the place of an image or a folder.

    Raises:
        InputError: it is called like an image, or is a folder.
    """
    if is_picture_name(target.name) or target.is_dir():
        kind = "is a folder" if target.is_dir() else "is the name of an image"
        raise InputError(f"{target} {kind}; expected the name of a text file, such as list.txt")


def check_target(target: Path, suffix: str) -> None:
    """Refuse a target that would not be known as a data set of its kind, or that is there already.

    Raises:
        InputError: it has another suffix, or it exists.
    """
    if target.suffix != suffix:
        raise InputError(f"{target}: expected a name NAME{suffix}, by which data sets of this kind are known")
    if target.exists():
        raise InputError(f"{target} exists already; remove it or choose another name")


class Skipper:
    """Stops at images that cannot be used, or goes on and names the first few of each fault.

    Args:
        skip: go on.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.messages: list[str] = []
        self._counts = Counter[str]()
        self._counting = threading.Lock()

    def usable(self, function: Callable[[Item], Result]) -> Callable[[Item], Result | None]:
        """``function``, returning None for what cannot be used where that is to be skipped."""

        def guarded(item: Item) -> Result | None:
            try:
                return function(item)
            except InputError as error:
                if not self.skip:
                    raise
                with self._counting:
                    self.messages.append(str(error))
                    fault = fault_of(str(error))
                    self._counts[fault] += 1
                    named = self._counts[fault] <= SHOWN
                if named:
                    get_logger().warning("left out: %s", error)
                return None

        return guarded
