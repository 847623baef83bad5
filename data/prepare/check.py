"""What is wrong with a data set: images that cannot be read, are too small, come twice, or have no partner."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from data.images.frames import look_at
from data.images.listing import Pair, PairingError, list_pairs, list_singles
from data.images.pack import PackImage, open_pack
from data.images.scan import in_threads
from data.images.sources import FileImage, ImageSource
from data.prepare.common import Picture
from utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class Findings:
    """The report of :func:`check_images`; each entry is one line for people.

    Attributes:
        images: how many were looked at.
        unreadable: missing, truncated, damaged.
        sizes: smaller than wanted, or not ``scale`` times their partner.
        duplicates: images with the same pixels, or with the same name but for its extension.
        unpaired: what the two sides do not have in common.
        grey: grey images among coloured ones; they are read as coloured, so this is no problem.
        several: files with several frames or pages, of which the first is read; no problem either.
    """

    images: int
    unreadable: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    unpaired: tuple[str, ...] = ()
    grey: tuple[str, ...] = ()
    several: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """All but the grey ones and those with several pictures."""
        return (*self.unreadable, *self.sizes, *self.duplicates, *self.unpaired)


@dataclasses.dataclass(frozen=True)
class _Look:
    label: str
    height: int = 0
    width: int = 0
    channels: int = 0
    digest: bytes = b""
    problem: str | None = None
    several: str | None = None


def check_images(
    folder: Path,
    *,
    meta_file: Path | None = None,
    least: int = 1,
    lq_folder: Path | None = None,
    scale: int = 1,
    template: str = "{}",
) -> Findings:
    """Read every image of a data set; nothing is changed.

    Args:
        folder: of files, ``NAME.lmdb`` or ``NAME.pack``.
        meta_file: list of the images to look at; None: all.
        least: smallest side that is accepted, such as the size of training patches.
        lq_folder: of low-resolution partners, checked as well.
        scale: high-resolution size / low-resolution size.
        template: name of a low-resolution image, ``{}`` standing for the high-resolution one's.

    Raises:
        InputError: the folder itself cannot be read.
    """
    metas = [] if meta_file is None else [meta_file]
    sources = list_singles([folder], metas, keep_broken=True)
    looks = _look_at(sources, f"{folder.name}: checking")
    findings = Findings(
        images=len(looks),
        unreadable=_problems(looks),
        sizes=tuple(
            f"{look.label}: {look.height} x {look.width} (height x width), smaller than {least}"
            for look in looks
            if not look.problem and min(look.height, look.width) < least
        ),
        duplicates=(*_duplicates(looks), *_same_names(sources)),
        grey=_grey(looks),
        several=_several(looks),
    )
    if lq_folder is None:
        return findings
    pairs: Sequence[Pair] = ()
    unpaired: tuple[str, ...] = ()
    try:
        pairs = list_pairs([folder], [lq_folder], metas, template, keep_broken=True)
        partners = [pair.lq for pair in pairs if pair.lq is not None]
    except InputError as error:
        unpaired = error.unpaired if isinstance(error, PairingError) else (str(error),)
        partners = list_singles([lq_folder], [], keep_broken=True)
    others = _look_at(partners, f"{lq_folder.name}: checking")
    sizes = () if unpaired else _sizes_of_pairs({look.label: look for look in looks}, others, pairs, scale)
    return dataclasses.replace(
        findings,
        images=len(looks) + len(others),
        unreadable=(*findings.unreadable, *_problems(others)),
        sizes=(*findings.sizes, *sizes),
        unpaired=unpaired,
        grey=(*findings.grey, *_grey(others)),
        several=(*findings.several, *_several(others)),
    )


def _sizes_of_pairs(looks: dict[str, _Look], others: list[_Look], pairs: Sequence[Pair], scale: int) -> list[str]:
    found = []
    for pair, small in zip(pairs, others, strict=True):
        large = looks[pair.gt.label]
        if large.problem or small.problem:
            continue
        if (large.height, large.width) != (small.height * scale, small.width * scale):
            found.append(
                f"{small.label}: {small.height} x {small.width}, but {large.label} is {large.height} x {large.width}; "
                f"expected {scale} times as many rows and columns"
            )
        if large.channels != small.channels:
            found.append(f"{small.label} and {large.label}: one is grey, the other coloured")
    return found


def _problems(looks: Sequence[_Look]) -> tuple[str, ...]:
    """Why images cannot be read, each reason once: it may be the file that holds all of them."""
    return tuple(dict.fromkeys(look.problem for look in looks if look.problem))


def _look_at(listed: Sequence[ImageSource], what: str) -> list[_Look]:
    def look(index: int) -> _Look:
        source = listed[index]
        label = source.label
        try:
            pixels = Picture(source, "").stored()
            if isinstance(source, PackImage) and open_pack(source.folder).damaged(source.number):
                raise InputError(f"{label}: the pixels are damaged (checksum); pack the images again")
        except InputError as error:
            return _Look(label, problem=str(error))
        height, width, channels = pixels.shape
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, salt=b"%d" % width).digest()
        return _Look(label, height, width, channels, digest, several=_pictures(source))

    return in_threads(look, range(len(listed)), what)


def _pictures(source: ImageSource) -> str | None:
    """How many pictures a file holds, where it is more than one."""
    sort, count = look_at(source.path) if isinstance(source, FileImage) else ("picture", 1)
    return None if count == 1 else f"{count} {'pages' if sort == 'pages' else 'frames'}"


def _several(looks: Sequence[_Look]) -> tuple[str, ...]:
    return tuple(f"{look.label}: {look.several}" for look in looks if look.several)


def _duplicates(looks: list[_Look]) -> tuple[str, ...]:
    first: dict[bytes, _Look] = {}
    found = []
    for look in looks:
        if look.problem:
            continue
        if look.digest in first:
            found.append(f"{look.label}: the same pixels as {first[look.digest].label}")
        first.setdefault(look.digest, look)
    return tuple(found)


def _same_names(sources: Sequence[ImageSource]) -> tuple[str, ...]:
    """Files such as ``a.png`` and ``a.jpg``: data sets that are made of them could not tell them apart."""
    first: dict[Path, Path] = {}
    found = []
    for source in sources:
        if isinstance(source, FileImage):
            other = first.setdefault(source.path.with_suffix(""), source.path)
            if other != source.path:
                found.append(f"{source.path}: the same name without extension as {other}")
    return tuple(found)


def _grey(looks: list[_Look]) -> tuple[str, ...]:
    usable = [look for look in looks if not look.problem]
    grey = [look for look in usable if look.channels == 1]
    if not grey or len(grey) == len(usable):
        return ()
    return tuple(look.label for look in grey)
