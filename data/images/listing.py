"""Which images belong to a data set, and which low-resolution image belongs to which high-resolution one."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from data.images.files import is_file, list_images, read_bytes
from data.images.names import Names
from data.images.pack import PackImage, open_pack
from data.images.sources import FileImage, ImageSource, LmdbImage, lmdb_images
from utils.errors import InputError
from utils.wording import first_few

# "NAME (H,W,C)": the size tells where a name with spaces ends; a name may hold what looks like a size.
_META_LINE = re.compile(r"(?P<name>.*\S)\s+\(\d+(,\s*\d+)+\).*")


class PairingError(InputError):
    """Images that are listed do not exist, or those of two folders do not pair; the message names the first few.

    Attributes:
        unpaired: all of them, one line for each.
    """

    def __init__(self, message: str, unpaired: Sequence[str]) -> None:
        super().__init__(message)
        self.unpaired = tuple(unpaired)


class Pair(NamedTuple):
    """A high-resolution image and its low-resolution one, or None where that is made from the first."""

    gt: ImageSource
    lq: ImageSource | None


class Listed:
    """Images of one folder, held as their names (files, LMDB) or numbers (packs).

    Args:
        folder: where they are; its name tells what it is.
        names: file names relative to the folder, keys, or numbers.
    """

    def __init__(self, folder: Path, names: Iterable[str] | NDArray[np.int64]) -> None:
        self.folder, self._lmdb = folder, is_lmdb(folder)  # asked once: pathlib takes microseconds for it
        self.names = names if isinstance(names, np.ndarray) else Names(names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> ImageSource:
        name = self.names[index]
        if not isinstance(name, str):
            return PackImage(self.folder, int(name))
        return LmdbImage(self.folder, name) if self._lmdb else FileImage(self.folder / name)


class PairList(Sequence[Pair]):
    """The pairs of a data set, folder after folder; objects are made when they are asked for.

    Args:
        parts: for each folder the high-resolution images, and as many low-resolution ones or None.
    """

    def __init__(self, parts: Sequence[tuple[Listed, Listed | None]]) -> None:
        self.parts = tuple(parts)
        self.counts = tuple(len(gt) for gt, _ in self.parts)
        self._starts = tuple(sum(self.counts[:i]) for i in range(len(self.counts)))
        self._indices = range(sum(self.counts))

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in self._indices[index]]
        place = self._indices[index]
        part = bisect_right(self._starts, place) - 1
        gt, lq = self.parts[part]
        within = place - self._starts[part]
        return Pair(gt[within], None if lq is None else lq[within])


def list_pairs(
    gt_folders: Sequence[Path],
    lq_folders: Sequence[Path],
    meta_files: Sequence[Path],
    template: str,
    *,
    keep_broken: bool = False,
) -> PairList:
    """All pairs of a data set, folder after folder.

    Args:
        gt_folders: folders of high-resolution images, LMDB folders or packs.
        lq_folders: one for each of them, or none.
        meta_files: one list of names for each of them, or none: all images of the folders, sorted by name.
        template: name of a low-resolution image without extension; ``{}`` stands for the high-resolution one's.
        keep_broken: see :func:`data.images.files.list_images`.

    Raises:
        InputError: a folder is missing, empty or not to be read.
        PairingError: images of a list are missing, or the two sides do not pair.
    """
    parts = []
    for i, gt_folder in enumerate(gt_folders):
        lq_folder = lq_folders[i] if lq_folders else None
        meta_file = meta_files[i] if meta_files else None
        if is_stored(gt_folder) or (lq_folder is not None and is_stored(lq_folder)):
            parts.append(_stored_pairs(gt_folder, lq_folder, meta_file, template))
        elif meta_file is not None:
            parts.append(_listed_pairs(gt_folder, lq_folder, meta_file, template))
        else:
            parts.append(_folder_pairs(gt_folder, lq_folder, template, keep_broken))
    return PairList(parts)


def list_singles(
    folders: Sequence[Path], meta_files: Sequence[Path], *, keep_broken: bool = False
) -> list[ImageSource]:
    """All images of a data set without pairs; arguments and errors as :func:`list_pairs`."""
    return [pair.gt for pair in list_pairs(folders, (), meta_files, "{}", keep_broken=keep_broken)]


def is_stored(folder: Path) -> bool:
    """Whether a data set's folder is an LMDB data set or a pack: its name says so."""
    return folder.suffix in (".lmdb", ".pack")


def is_lmdb(folder: Path) -> bool:
    """Whether a data set's folder is meant to be an LMDB data set: its name says so."""
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


def _stored_keys(folder: Path) -> dict[str, str | int]:
    """Key -> what :class:`Listed` calls the image, in the order of the data set."""
    if folder.suffix == ".pack":
        return {key: number for number, key in enumerate(open_pack(folder).keys)}
    if is_lmdb(folder):
        return {image.key: image.key for image in lmdb_images(folder)}
    raise InputError(f"{folder} is a folder of files, its partner an LMDB data set or a pack; store both in one way")


def _stored_pairs(
    gt_folder: Path, lq_folder: Path | None, meta_file: Path | None, template: str
) -> tuple[Listed, Listed | None]:
    gt_keys = _stored_keys(gt_folder)
    if meta_file is not None:
        wanted_keys = [str(PurePosixPath(name).with_suffix("")) for name in meta_names(meta_file)]
        absent = [f"{gt_folder}: {key}" for key in wanted_keys if key not in gt_keys]
        if absent:
            raise InputError(f"{meta_file} lists images that do not exist ({len(absent)}): {first_few(absent)}")
        gt_keys = {key: gt_keys[key] for key in wanted_keys}
    if lq_folder is None:
        return _listed(gt_folder, gt_keys.values()), None
    lq_keys = _stored_keys(lq_folder)
    # BasicSR gives both sides the same keys; a template is honoured where its keys exist.
    wanted = {key: key if key in lq_keys else template.replace("{}", key) for key in gt_keys}
    _check_pairing(gt_folder, lq_folder, wanted, lq_keys, all_used=meta_file is None)
    return _listed(gt_folder, gt_keys.values()), _listed(lq_folder, (lq_keys[wanted[key]] for key in gt_keys))


def _listed(folder: Path, names: Iterable[str | int]) -> Listed:
    if folder.suffix == ".pack":
        return Listed(folder, np.fromiter(names, np.int64))
    return Listed(folder, map(str, names))


def _listed_pairs(
    gt_folder: Path, lq_folder: Path | None, meta_file: Path, template: str
) -> tuple[Listed, Listed | None]:
    names = meta_names(meta_file)
    # Sub-folders of a name hold for the high-resolution side only, as in BasicSR.
    partners = [_partner(PurePosixPath(name), template) for name in names]
    wanted = [gt_folder / name for name in names]
    wanted += [] if lq_folder is None else [lq_folder / name for name in partners]
    absent = [str(path) for path in wanted if not is_file(path)]
    if absent:
        raise PairingError(
            f"{meta_file} lists images that do not exist ({len(absent)}): {first_few(absent)}",
            [f"{path}: does not exist, but {meta_file} lists it" for path in absent],
        )
    return Listed(gt_folder, names), None if lq_folder is None else Listed(lq_folder, partners)


def _folder_pairs(
    gt_folder: Path, lq_folder: Path | None, template: str, keep_broken: bool
) -> tuple[Listed, Listed | None]:
    gt_files = list_images(gt_folder, keep_broken=keep_broken)
    gt = Listed(gt_folder, (path.name for path in gt_files))
    if lq_folder is None:
        return gt, None
    by_name = {path.name: path for path in list_images(lq_folder, keep_broken=keep_broken)}
    by_stem = {path.stem: path.name for path in by_name.values()}
    wanted = {}
    for path in gt_files:
        exact = _partner(path, template)
        # Another kind of file will do: the photograph may be a JPEG, its small version a PNG.
        wanted[path.name] = exact if exact in by_name else by_stem.get(Path(exact).stem, exact)
    _check_pairing(gt_folder, lq_folder, wanted, by_name)
    return gt, Listed(lq_folder, (wanted[path.name] for path in gt_files))


def _partner(name: Path | PurePosixPath, template: str) -> str:
    """File name of the low-resolution image of a high-resolution one."""
    return template.replace("{}", name.stem) + name.suffix


def _check_pairing(
    gt_folder: Path, lq_folder: Path, wanted: Mapping[str, str], present: Mapping[str, object], all_used: bool = True
) -> None:
    """``wanted``: high-resolution name -> low-resolution name that belongs to it; ``present``: those that exist."""
    alone = {gt: lq for gt, lq in wanted.items() if lq not in present}
    surplus = sorted(set(present) - set(wanted.values())) if all_used else []
    if not alone and not surplus:
        return
    lines = [f"the images of {gt_folder} ({len(wanted)}) and {lq_folder} ({len(present)}) do not pair:"]
    if alone:
        named = first_few(f"{gt} (expected {lq})" for gt, lq in alone.items())
        lines.append(f"  {len(alone)} high-resolution without low-resolution: {named}")
    if surplus:
        lines.append(f"  {len(surplus)} low-resolution without high-resolution: {first_few(surplus)}")
    lines.append('  filename_tmpl says how names correspond, for example "{}x4" for a.png and ax4.png')
    raise PairingError(
        "\n".join(lines),
        [
            *(f"{gt_folder / gt}: has no partner {lq} in {lq_folder}" for gt, lq in alone.items()),
            *(f"{lq_folder / lq}: is no partner of an image in {gt_folder}" for lq in surplus),
        ],
    )
