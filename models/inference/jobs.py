"""Which file becomes which: the inputs and outputs of ``scripts/upscale.py``."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from data.images.files import foreign_lines, instead, sort_files
from data.images.frames import look_at
from data.images.kinds import Kind, is_film
from data.images.output_kinds import OUTPUT_SUFFIXES, output_kind
from models.inference.encoding import CONTAINERS
from utils.errors import InputError

_ROLES = ("picture", "film")


class Job(NamedTuple):
    """One file to upscale."""

    source: Path
    target: Path

    @property
    def is_video(self) -> bool:
        """Whether it is a film rather than a picture."""
        return is_film(self.source)


class _Found(NamedTuple):
    source: Path
    name: Path  # below the folder for the results


def plan_jobs(inputs: Sequence[str], output: Path, suffix: str = "", kind: str | None = None) -> list[Job]:
    """What becomes of files, folders and patterns.

    Args:
        inputs: files; folders, of which pictures and films are taken, not those of sub-folders; patterns such as
            ``photos/**/*.png``, whose sub-folders come again below ``output``. Of folders and patterns, all files that
            are pictures or films by their names or contents are taken, except for those of :func:`left_out`.
        output: folder, or a file where there is one input.
        suffix: added to the names of the results.
        kind: of the results that are pictures, such as "webp"; None: PNG files, TIFF files where there are pages.

    Raises:
        InputError: there is nothing to do, or a result would take the place of an input or of another result.
    """
    found = list(dict.fromkeys(item for text in inputs for item in _found(text)))
    if output.suffix and not output.is_dir():
        jobs = [_single(inputs, found, output, kind)]
    else:
        plain = [_result(item, item.name.stem, suffix, kind) for item in found]
        counts = Counter(plain)
        # Of "a.png" and "a.jpg" neither may take the other's name.
        names = [
            _result(item, item.name.name, suffix, kind) if counts[name] > 1 else name
            for item, name in zip(found, plain, strict=True)
        ]
        jobs = [Job(item.source, output / name) for item, name in zip(found, names, strict=True)]
    sources = {job.source.resolve() for job in jobs}
    lost = [job.target for job in jobs if job.target.resolve() in sources]
    if lost:
        raise InputError(
            f"{lost[0]} is a picture to be upscaled and would be replaced; choose another -o, or a --suffix"
        )
    targets: dict[Path, Path] = {}
    for job in jobs:
        if job.target in targets:
            raise InputError(
                f"{targets[job.target]} and {job.source} would both become {job.target}; upscale them one after the "
                "other, into different folders"
            )
        targets[job.target] = job.source
    return jobs


def left_out(inputs: Sequence[str]) -> dict[Kind, list[Path]]:
    """The pictures in folders, and among the files that fit patterns, that are of kinds that cannot be read."""
    found: dict[Kind, list[Path]] = {}
    for text in inputs:
        path = Path(text)
        files = _visible(path.iterdir()) if path.is_dir() else [] if path.is_file() else _fitting(path)
        for kind, paths in sort_files(files)[1].items():
            found.setdefault(kind, []).extend(item for item in paths if item not in found[kind])
    return found


def would_find(text: str, path: Path) -> bool:
    """Whether an argument, a folder or a pattern, finds a file of this path once it is there."""
    given = Path(text)
    if given.is_dir():
        return path.parent.resolve() == given.resolve()
    root = _fixed_part(given)
    if given.is_file() or not path.resolve().is_relative_to(root.resolve()):
        return False
    return _fits(path.resolve().relative_to(root.resolve()).parts, given.relative_to(root).parts)


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(_fits(names[i:], pattern[1:]) for i in range(len(names) + 1))
    return len(names) > 0 and fnmatch(names[0], pattern[0]) and _fits(names[1:], pattern[1:])


def _found(text: str) -> list[_Found]:
    """The files that one argument names."""
    path = Path(text)
    if path.is_file():
        return [_Found(path, Path(path.name))]
    if path.is_dir():
        visible = _visible(path.iterdir())
        files, foreign = _wanted(visible)
        if not files:
            others = instead(path, visible, foreign, _ROLES, f"name one of them, or -i '{path}/**/*' for all")
            raise InputError(f"the folder {path} holds no images and no films{others}")
        return [_Found(item, Path(item.name)) for item in files]
    if glob.has_magic(text):
        root = _fixed_part(path)
        files, foreign = _wanted(_fitting(path))
        if files:
            return [_Found(item, item.relative_to(root)) for item in files]
        unread = "".join(f"; {line}" for line in foreign_lines(foreign))
        raise InputError(f"{text}: no picture fits this pattern (relative paths start at {Path.cwd()}){unread}")
    if path.exists():
        raise InputError(f"{path}: it is a pipe or a device; expected a file or a folder, so write it to a file first")
    raise InputError(f"{path}: there is no such file or folder (relative paths start at {Path.cwd()})")


def _visible(paths: Iterable[Path]) -> list[Path]:
    """Files that are not hidden, and links that lead nowhere: called like pictures, they fail by name."""
    return sorted(path for path in paths if not path.name.startswith(".") and (path.is_file() or _is_broken(path)))


def _is_broken(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _fitting(pattern: Path) -> list[Path]:
    """The files that fit a pattern; hidden ones do not."""
    root = _fixed_part(pattern)
    return _visible(root.glob(str(pattern.relative_to(root))))


def _wanted(files: Sequence[Path]) -> tuple[list[Path], dict[Kind, list[Path]]]:
    """Pictures and films, and pictures of kinds that cannot be read."""
    found, foreign = sort_files(files)
    return sorted(path for role in _ROLES for path in found.get(role, ())), foreign


def _fixed_part(pattern: Path) -> Path:
    """The folder in front of the first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _single(inputs: Sequence[str], found: Sequence[_Found], output: Path, kind: str | None) -> Job:
    """One file becomes one file, whose name says of what kind."""
    if len(inputs) > 1 or not Path(inputs[0]).is_file():
        raise InputError(f"-o {output}: name a folder, since {inputs[0]} is not the only file")
    job = Job(found[0].source, output)
    kinds = tuple(CONTAINERS) if job.is_video else OUTPUT_SUFFIXES
    if output.suffix.lower() not in kinds:
        raise InputError(f"-o {output}: name a folder, or a file that ends in one of {', '.join(kinds)}")
    if kind is not None and not job.is_video and f".{kind}" not in output_kind(output).suffixes:
        raise InputError(f"-o {output} and --format {kind} contradict each other; leave one of them out")
    return job


def _result(item: _Found, stem: str, suffix: str, kind: str | None) -> Path:
    container = item.source.suffix.lower()
    if is_film(item.source):
        ending = container if container in CONTAINERS else ".mkv"  # which takes sound of every kind
    elif kind is None:
        ending = ".tif" if look_at(item.source)[0] == "pages" else ".png"
    else:
        ending = f".{kind}"
    return item.name.with_name(f"{stem}{suffix}{ending}")
