"""The pages of the documentation, and what they set as code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md")] if page.name != "options.md")  # generated


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_of(page: Path) -> list[str]:
    """What a page sets as code: the lines of its blocks, and the words between backticks."""
    text = text_of(page)
    blocks = re.findall(r"^ *```.*?\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [*lines, *inline]


def on_pages(pattern: str, pages: list[Path] = PAGES) -> list[tuple[str, str]]:
    """The page and the text of everything set as code that fits a pattern, or the pattern's group."""
    found = [(page.name, name) for page in pages for code in code_of(page) for name in re.findall(pattern, code)]
    return list(dict.fromkeys(found))
