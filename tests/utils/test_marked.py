"""Parts of pages that programs write: between their marks, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.errors import InputError
from utils.marked import replace_marked

MARKS = "<!-- begin -->", "<!-- end -->"


def test_what_is_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        replace_marked(page, MARKS, "new\nlines\n")
        assert page.read_text() == "before\n<!-- begin -->\nnew\nlines\n<!-- end -->\nafter\n"


@pytest.mark.parametrize(
    "text", ["", "<!-- begin -->", "<!-- end --> <!-- begin -->", "<!-- begin --><!-- end -->" * 2]
)
def test_a_page_without_these_marks_is_refused_and_left(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(
        InputError, match=r"--page: .*page\.md has no place for this; mark it with two lines: <!-- begin"
    ):
        replace_marked(page, MARKS, "new\n")
    assert page.read_text() == text
    with pytest.raises(InputError, match="cannot be read"):
        replace_marked(tmp_path / "absent.md", MARKS, "new\n")
