"""A report of runs, from their folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from analysis.report.curves import charts
from analysis.report.model import MARK, Analysis, Report, ScoredSet
from analysis.report.pictures import pictures_of
from analysis.report.runs import Notes, RunFiles, differences, kind_of, read_run, with_own_names
from analysis.report.scores import Key, scored_sets
from analysis.report.thumbnails import FullPictures, figure
from analysis.results import Found, find
from utils.errors import InputError
from utils.files import check_writable
from utils.progress import Progress
from utils.reading import open_regular
from utils.wording import first_line

_PICTURES = 22_000_000  # characters of all pictures of images
_ANALYSES = 4_000_000  # of those of analyses
_FIGURE = 700_000  # of one of them, at most
_MARKED = 4096  # bytes of a page within which its mark stands


@dataclass(frozen=True)
class Wish:
    """What a page is to show.

    Attributes:
        folders: of training runs, tests and results of analyses; the first run names the page.
        command: that makes the page.
        images: number of images that are shown.
        full: where full pictures go; None: the page has thumbnails alone.
    """

    folders: tuple[Path, ...]
    command: str
    images: int = 200
    full: FullPictures | None = None


def build_report(wish: Wish, *, shown: bool = False) -> Report:
    """Read the runs and put together what the page shows.

    Args:
        wish: what that is.
        shown: draw a progress bar.

    Raises:
        InputError: a folder holds nothing that can be shown.
    """
    folders = tuple(dict.fromkeys(folder.resolve() for folder in wish.folders))
    named = {folder.resolve(): folder for folder in reversed(wish.folders)}
    found = {folder: find(named[folder]) for folder in folders}
    runs = with_own_names([
        read_run(named[folder]) for folder in folders if kind_of(folder) is not None or not found[folder]
    ])  # fmt: skip
    notes = Notes()
    sets = scored_sets(runs, notes)
    with Progress(0, "pictures", shown=shown) as progress:

        def advanced(done: int, total: int) -> None:
            progress.total = total
            progress.advance(done - progress.done)

        pictures, numbers = pictures_of(
            runs, sets, notes, most=wish.images, room=_PICTURES, full=wish.full, step=advanced
        )  # fmt: skip
        progress.total = progress.done = len(pictures)
    analyses = _analyses([own for folder in folders for own in found[folder]], runs, notes)
    shown_runs = tuple(notes.to(files.run) for files in runs)
    return Report(
        title=shown_runs[0].name if shown_runs else folders[0].name,
        made=f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        command=wish.command,
        runs=shown_runs,
        differences=differences(shown_runs),
        curves=charts({number: files.curves for number, files in enumerate(runs) if files.curves is not None}),
        sets=tuple(_linked(table, key, numbers) for key, table in sets.items()),
        pictures=pictures,
        analyses=analyses,
    )  # fmt: skip


def _linked(table: ScoredSet, key: Key, numbers: dict[tuple[Key, str], int]) -> ScoredSet:
    """A table whose rows know their pictures."""
    rows = (dataclasses.replace(row, picture=numbers.get((key, row.name))) for row in table.images)
    return dataclasses.replace(table, images=tuple(rows))


def _analyses(found: Sequence[Found], runs: Sequence[RunFiles], notes: Notes) -> tuple[Analysis, ...]:
    """The results of analyses, an entry for each picture; the text stands with the first."""
    each = {own.file.resolve(): own for own in found}.values()
    count = sum(len(own.pictures) for own in each)
    share = min(_FIGURE, _ANALYSES // max(1, count))
    made = []
    for own in each:
        place = own.file.parent
        text = own.text
        for file in own.pictures:
            title = str(place / file.stem)
            try:
                made.append(Analysis(own.kind, title, text, figure(file, share)))
                text = ""
            except InputError as error:
                if runs:
                    notes.add(runs[0].run.name, first_line(error))
        if text:
            made.append(Analysis(own.kind, str(place), text, None))
    return tuple(made)


def page_of(output: Path) -> Path:
    """The file of a page: ``FOLDER/index.html``, or the file itself where the name ends in ``.html``.

    Raises:
        InputError: a file of another kind is there.
    """
    if output.suffix.lower() in (".html", ".htm"):
        return output
    if output.is_file():
        raise InputError(f"-o {output}: is a file; name a folder, or a file that ends in .html")
    return output / "index.html"


def full_pictures(page: Path) -> FullPictures:
    """Where the full pictures of a page go: ``pictures`` beside ``index.html``, else ``PAGE_pictures``."""
    name = "pictures" if page.name == "index.html" else f"{page.stem}_pictures"
    return FullPictures(page.parent / name, page.parent)


def check_page(page: Path, *, full: bool, overwrite: bool) -> None:
    """Make sure, before the work, that a page can be written: over nothing, or over a page that was made here.

    Raises:
        InputError: something else is there, and it is not to be replaced; or the page cannot be written.
    """
    check_writable(page)
    if overwrite:
        return
    if page.exists() and not is_own(page):
        raise InputError(f"{page} exists and is no report that was made here; choose another -o, or add --overwrite")
    pictures = full_pictures(page).folder
    if full and pictures.exists() and not page.exists():
        raise InputError(f"{pictures} exists, and full pictures would go there; choose another -o, or add --overwrite")


def is_own(page: Path) -> bool:
    """Whether a file is a report that was made here, which may be replaced by a newer one."""
    try:
        with open_regular(page) as file:
            return MARK.encode() in file.read(_MARKED)
    except OSError:
        return False
