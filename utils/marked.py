"""Pages in which a program keeps one part, between two marks, up to date."""

from __future__ import annotations

from pathlib import Path

from utils.errors import InputError
from utils.files import write_text


def replace_marked(page: Path, marks: tuple[str, str], content: str, option: str = "--page") -> None:
    """Put text between the two marks of a page, in place of what was there.

    Args:
        page: the file.
        marks: lines that stand before and behind the part; each once.
        content: whole lines.
        option: where the name of the page comes from, for messages.

    Raises:
        InputError: the page cannot be read, or has no such marks.
    """
    begin, end = marks
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option}: {page} cannot be read: {error}") from error
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"{option}: {page} has no place for this; mark it with two lines: {begin} and {end}")
    before, rest = text.split(begin)
    write_text(page, f"{before}{begin}\n{content}{end}{rest.split(end)[1]}")
