"""What an analysis leaves behind: a picture, the numbers, and what a paper's text would say; and finding it again."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.drawing import Pixels
from analysis.subjects import Subject
from data.images.files import write_image
from utils.env import hardware, versions
from utils.errors import InputError
from utils.files import atomic_write, check_folder, make_folder, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "focalsr_analysis"
"""A key that only the JSON files of analyses have; its value is the kind."""
_DOTS_PER_INCH = 150


@dataclass(frozen=True)
class Results:
    """What one analysis found.

    Attributes:
        kind: of analysis, such as "lam"; begins the names of the files.
        text: what a paper's text would say, some lines.
        figures: numbers and names, for JSON.
        arrays: for the ``.npz`` file; none: no such file.
        pictures: pictures uint8 [.., .., 3], or figures of matplotlib, by what is added to the file name; "" for the
            first one.
        files: further files, by their whole name: text.
    """

    kind: str
    text: str
    figures: Mapping[str, object]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    pictures: Mapping[str, Pixels | Figure] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """Results on the disk.

    Attributes:
        kind: of analysis.
        text: what it printed.
        figures: the JSON file's content.
        file: the JSON file.
        pictures: PNG files beside it.
    """

    kind: str
    text: str
    figures: Mapping[str, Any]
    file: Path
    pictures: tuple[Path, ...]


def check_output(folder: Path, kind: str, *, overwrite: bool) -> None:
    """Make sure, before the work, that results can be written.

    Raises:
        InputError: the folder cannot be written, or has results of this kind and they are not to be replaced.
    """
    if folder.is_file():
        raise InputError(f"-o {folder}: is a file; name a folder")
    check_folder(folder)
    if (folder / f"{kind}.json").exists() and not overwrite:
        raise InputError(f"{folder / kind}.json exists; choose another folder with -o, or add --overwrite")


def write(folder: Path, results: Results, subjects: Sequence[Subject] = ()) -> list[Path]:
    """Write the files of an analysis, the JSON file last; those of an earlier one of this kind are replaced.

    Figures of matplotlib are written as PNG and, with text that stays text, as PDF.

    Returns:
        The files, pictures first.
    """
    make_folder(folder)
    written: list[Path] = []
    for name, picture in results.pictures.items():
        stem = f"{results.kind}_{name}" if name else results.kind
        if isinstance(picture, np.ndarray):
            written.append(folder / f"{stem}.png")
            write_image(written[-1], picture)
        else:
            written += _write_figure(folder / stem, picture)
    if results.arrays:
        written.append(folder / f"{results.kind}.npz")
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **results.arrays)
        with atomic_write(written[-1]) as file:
            file.write(buffer.getvalue())
    for name, text in results.files.items():
        written.append(folder / name)
        with atomic_write(written[-1]) as file:
            file.write(text.encode())
    written.append(folder / f"{results.kind}.json")
    networks = [_about(subject) for subject in subjects]
    record = {MARK: results.kind, "text": results.text, "networks": networks, **results.figures}
    write_json(written[-1], {**record, "versions": versions(), "hardware": hardware()})
    return written


def _about(subject: Subject) -> dict[str, object]:
    return {
        "name": subject.name,
        "weights": str(subject.source),
        "network_g": dict(subject.described),
        "scale": subject.scale,
        "parameters": subject.parameters,
    }


def _write_figure(stem: Path, figure: Figure) -> list[Path]:
    """PNG and PDF."""
    import matplotlib

    written = []
    # Type 42: publishers that refuse Type 3 fonts take it.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        for suffix in ("png", "pdf"):
            written.append(stem.with_name(f"{stem.name}.{suffix}"))
            with atomic_write(written[-1]) as file:
                figure.savefig(file, format=suffix, dpi=_DOTS_PER_INCH)
    return written


def find(folder: Path) -> list[Found]:
    """The results in a folder and in the folders in it, by their place; what cannot be read is none of them."""
    return [found for file in sorted((*folder.glob("*.json"), *folder.glob("*/*.json"))) if (found := _read(file))]


def _read(file: Path) -> Found | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # not ours to judge: folders hold all kinds of files
        return None
    if not isinstance(record, dict) or not isinstance(record.get(MARK), str):
        return None
    kind = record[MARK]
    pictures = tuple(sorted(file.parent.glob(f"{kind}.png")) + sorted(file.parent.glob(f"{kind}_*.png")))
    return Found(kind, str(record.get("text", "")), record, file, pictures)
