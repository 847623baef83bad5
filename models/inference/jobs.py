"""Which file becomes which: the inputs and outputs of ``scripts/upscale.py``."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.images.files import SUFFIXES
from data.images.frames import look_at
from data.images.output_kinds import OUTPUT_SUFFIXES, output_kind
from utils.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
_KEPT_CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv")


class Job(NamedTuple):
    """One file to upscale."""

    source: Path
    target: Path

    @property
    def is_video(self) -> bool:
        """Whether it is a film rather than a picture."""
        return self.source.suffix.lower() in VIDEO_SUFFIXES


class _Found(NamedTuple):
    source: Path
    name: Path  # below the folder for the results


def plan_jobs(inputs: Sequence[str], output: Path, suffix: str = "", kind: str | None = None) -> list[Job]:
    """What becomes of files, folders and patterns.

    Args:
        inputs: files; folders, of which pictures and films are taken, not those of sub-folders; patterns such as
            ``photos/**/*.png``, whose sub-folders come again below ``output``.
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
        stems = Counter(item.name.with_suffix("") for item in found)
        jobs = [Job(item.source, output / _result(item, suffix, stems, kind)) for item in found]
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


def _found(text: str) -> list[_Found]:
    """The files that one argument names."""
    path = Path(text)
    if path.is_file():
        return [_Found(path, Path(path.name))]
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if _is_wanted(item))
        if not files:
            raise InputError(f"the folder {path} holds no images ({', '.join(SUFFIXES)}) and no films")
        return [_Found(item, Path(item.name)) for item in files]
    if glob.has_magic(text):
        root = _fixed_part(path)
        files = sorted(item for item in root.glob(str(path.relative_to(root))) if _is_wanted(item))
        if files:
            return [_Found(item, item.relative_to(root)) for item in files]
        raise InputError(f"{text}: no picture fits this pattern (relative paths start at {Path.cwd()})")
    raise InputError(f"{path}: there is no such file or folder (relative paths start at {Path.cwd()})")


def _is_wanted(path: Path) -> bool:
    known = path.suffix.lower() in (*SUFFIXES, *VIDEO_SUFFIXES)
    return known and path.is_file() and not path.name.startswith(".")


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
    kinds = _KEPT_CONTAINERS if job.is_video else OUTPUT_SUFFIXES
    if output.suffix.lower() not in kinds:
        raise InputError(f"-o {output}: name a folder, or a file that ends in one of {', '.join(kinds)}")
    if kind is not None and not job.is_video and f".{kind}" not in output_kind(output).suffixes:
        raise InputError(f"-o {output} and --format {kind} contradict each other; leave one of them out")
    return job


def _result(item: _Found, suffix: str, stems: Counter[Path], kind: str | None) -> Path:
    # Of "a.png" and "a.jpg" neither may take the other's name.
    stem = item.name.stem if stems[item.name.with_suffix("")] == 1 else item.name.name
    container = item.source.suffix.lower()
    if container in VIDEO_SUFFIXES:
        ending = container if container in _KEPT_CONTAINERS else ".mkv"  # which takes sound of every kind
    elif kind is None:
        ending = ".tif" if look_at(item.source)[0] == "pages" else ".png"
    else:
        ending = f".{kind}"
    return item.name.with_name(f"{stem}{suffix}{ending}")
