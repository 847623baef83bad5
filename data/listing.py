"""Which images belong to a data set, and which low-resolution image belongs to which high-resolution one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data.images import list_images, read_bytes
from data.sources import FileImage, ImageSource, lmdb_images
from utils.errors import InputError

_SHOWN = 5
# "NAME (H,W,C)": the size tells where a name with spaces ends.
_META_LINE = re.compile(r"(?P<name>.+?)\s+\(\d+(,\s*\d+)+\).*")


class Pair(NamedTuple):
    """A high-resolution image and its low-resolution one, or None where that is made from the first."""

    gt: ImageSource
    lq: ImageSource | None


def list_pairs(
    gt_folders: Sequence[Path], lq_folders: Sequence[Path], meta_files: Sequence[Path], template: str
) -> list[Pair]:
    """All pairs of a data set, folder after folder.

    Args:
        gt_folders: folders of high-resolution images, or LMDB folders.
        lq_folders: one for each of them, or none.
        meta_files: one list of names for each of them, or none: all images of the folders, sorted by name.
        template: name of a low-resolution image without extension; ``{}`` stands for the high-resolution one's.

    Raises:
        InputError: a folder is missing or empty, or the two sides do not pair.
    """
    pairs: list[Pair] = []
    for i, gt_folder in enumerate(gt_folders):
        lq_folder = lq_folders[i] if lq_folders else None
        if is_lmdb(gt_folder) or (lq_folder is not None and is_lmdb(lq_folder)):
            pairs += _lmdb_pairs(gt_folder, lq_folder, template)
        elif meta_files:
            pairs += _listed_pairs(gt_folder, lq_folder, meta_files[i], template)
        else:
            pairs += _folder_pairs(gt_folder, lq_folder, template)
    return pairs


def list_singles(folders: Sequence[Path], meta_files: Sequence[Path]) -> list[ImageSource]:
    """All images of a data set without pairs; arguments and errors as :func:`list_pairs`."""
    return [pair.gt for pair in list_pairs(folders, (), meta_files, "{}")]


def is_lmdb(folder: Path) -> bool:
    """Whether a data set's folder is meant to be an LMDB data set: that is told by its name."""
    return folder.suffix == ".lmdb"


def meta_names(path: Path) -> list[str]:
    """The names that a ``meta_info`` file lists, in its order: per line a name, perhaps followed by ``(H,W,C)``.

    Raises:
        InputError: the file cannot be read or lists nothing.
    """
    lines = [line.strip() for line in read_bytes(path).decode("utf-8-sig", errors="replace").splitlines()]
    names = []
    for line in filter(None, lines):
        match = _META_LINE.fullmatch(line)
        names.append(match["name"] if match else line.split()[0])
    if not names:
        raise InputError(f"{path}: the list of images is empty; expected one name per line")
    return names


def _lmdb_pairs(gt_folder: Path, lq_folder: Path | None, template: str) -> list[Pair]:
    gt_images = lmdb_images(gt_folder)
    if lq_folder is None:
        return [Pair(image, None) for image in gt_images]
    by_key = {image.key: image for image in lmdb_images(lq_folder)}
    # BasicSR gives both sides the same keys; a template is honoured where its keys exist.
    wanted = {image.key: image.key if image.key in by_key else template.replace("{}", image.key) for image in gt_images}
    _check_pairing(gt_folder, lq_folder, wanted, by_key)
    return [Pair(image, by_key[wanted[image.key]]) for image in gt_images]


def _listed_pairs(gt_folder: Path, lq_folder: Path | None, meta_file: Path, template: str) -> list[Pair]:
    pairs, absent = [], []
    for name in meta_names(meta_file):
        # Sub-folders of a name hold for the high-resolution side only, as in BasicSR.
        gt = gt_folder / name
        lq = None if lq_folder is None else lq_folder / _partner(PurePosixPath(name), template)
        absent += [path for path in (gt, lq) if path is not None and not path.is_file()]
        pairs.append(Pair(FileImage(gt), None if lq is None else FileImage(lq)))
    if absent:
        raise InputError(f"{meta_file} lists images that do not exist ({len(absent)}): {_first(map(str, absent))}")
    return pairs


def _folder_pairs(gt_folder: Path, lq_folder: Path | None, template: str) -> list[Pair]:
    gt_files = list_images(gt_folder)
    if lq_folder is None:
        return [Pair(FileImage(path), None) for path in gt_files]
    by_name = {path.name: path for path in list_images(lq_folder)}
    by_stem = {path.stem: path.name for path in by_name.values()}
    wanted = {}
    for path in gt_files:
        exact = _partner(path, template)
        # Another kind of file will do: the photograph may be a JPEG, its small version a PNG.
        wanted[path.name] = exact if exact in by_name else by_stem.get(Path(exact).stem, exact)
    _check_pairing(gt_folder, lq_folder, wanted, by_name)
    return [Pair(FileImage(path), FileImage(by_name[wanted[path.name]])) for path in gt_files]


def _partner(name: Path | PurePosixPath, template: str) -> str:
    """File name of the low-resolution image of a high-resolution one."""
    return template.replace("{}", name.stem) + name.suffix


def _check_pairing(gt_folder: Path, lq_folder: Path, wanted: Mapping[str, str], present: Mapping[str, object]) -> None:
    """``wanted``: high-resolution name -> low-resolution name that belongs to it; ``present``: those that exist."""
    alone = [f"{gt} (expected {lq})" for gt, lq in wanted.items() if lq not in present]
    surplus = sorted(set(present) - set(wanted.values()))
    if not alone and not surplus:
        return
    lines = [f"the images of {gt_folder} ({len(wanted)}) and {lq_folder} ({len(present)}) do not pair:"]
    if alone:
        lines.append(f"  {len(alone)} high-resolution without low-resolution: {_first(alone)}")
    if surplus:
        lines.append(f"  {len(surplus)} low-resolution without high-resolution: {_first(surplus)}")
    lines.append('  filename_tmpl says how names correspond, for example "{}x4" for a.png and ax4.png')
    raise InputError("\n".join(lines))


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
