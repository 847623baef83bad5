"""The pages about adding something, followed to the letter in a copy of the repository: every check passes there."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.following import copy_of_the_repository, follow, run_in
from tests.pages import ROOT

PAGES = ("adding_a_network.md", "adding_a_loss.md", "adding_a_data_set.md")
TESTS = [
    "tests/archs/test_contract.py", "tests/archs/test_imports.py", "tests/archs/test_build_network.py", "tests/losses",
    "tests/config/test_docs_generator.py", "tests/config/test_option_files.py", "tests/data/datasets/test_datasets.py",
    "tests/scripts/test_benchmark_rows.py", "tests/test_option_files.py",
]  # fmt: skip
NEW = (
    "hallow or test_imports or every_network or every_kind or current or every_common or is_tested or dge or veraged "
    "or name_every"
)
"""The tests, in pytest's words, that concern what the pages add; with those that go through everything."""


@pytest.mark.slow
def test_pages_that_are_followed_pass_the_checks(tmp_path: Path) -> None:
    root = copy_of_the_repository(tmp_path / "focal sr")
    assert not (root / ".git").exists()
    python = [name for page in PAGES for name in follow(page, root) if name.endswith(".py")]
    assert len(python) > 9
    made = run_in(root, "scripts/make_docs.py")  # as the pages say
    assert made.returncode == 0, made.stderr
    for check in (["check"], ["format", "--check", "--diff"]):
        linted = run_in(root, "-m", "ruff", *check, *python)
        assert linted.returncode == 0, linted.stdout + linted.stderr
    if (ROOT / ".mypy_cache").is_dir():  # of what the pages do not touch: 2 s in the place of 15
        journals = shutil.ignore_patterns("*-journal", "*-shm", "*-wal")
        shutil.copytree(ROOT / ".mypy_cache", root / ".mypy_cache", ignore=journals, copy_function=_copied)
    typed = run_in(root, "-m", "mypy", *python)
    ours = tuple(f"{name}:" for name in python)  # what else mypy follows has other faults under older versions of torch
    assert typed.returncode < 2, typed.stdout + typed.stderr
    assert not [line for line in typed.stdout.splitlines() if line.startswith(ours)], typed.stdout
    imported = run_in(root, "-c", "from importlinter.cli import lint_imports_command as check; check()", "--no-logo")
    assert imported.returncode == 0, imported.stdout
    own = [name for name in python if Path(name).name in ("test_shallow.py", "test_edge.py", "test_averaged.py")]
    assert len(own) == len(PAGES)
    tested = run_in(root, "-m", "pytest", "-q", "-p", "no:cacheprovider", *own, *TESTS, "-k", NEW)
    assert tested.returncode == 0, tested.stdout
    assert "skipped" not in tested.stdout


def _copied(source: str, target: str) -> None:
    """Copy a file of mypy's cache, which may be written to at the moment."""
    if source.endswith(".db"):
        with closing(sqlite3.connect(source)) as content, closing(sqlite3.connect(target)) as copy:
            content.backup(copy)
    else:
        shutil.copyfile(source, target)


def test_an_edit_of_lines_that_are_not_there_is_an_error(tmp_path: Path, write_page: Callable[[str], None]) -> None:
    (tmp_path / "a.py").write_text("one\ntwo\n")
    write_page("```diff\n# a.py\n one\n-two\n+three\n```\n")
    assert follow("page.md", tmp_path) == ["a.py"]
    assert (tmp_path / "a.py").read_text() == "one\nthree\n"
    with pytest.raises(ValueError, match="these lines are there 0 times"):
        follow("page.md", tmp_path)
    write_page("```python\nprint()\n```\n")
    with pytest.raises(ValueError, match="no block begins with the name of a file"):
        follow("page.md", tmp_path)


@pytest.fixture
def write_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the page that is followed."""
    monkeypatch.setattr("tests.following.DOCS", tmp_path)

    def write(text: str) -> None:
        (tmp_path / "page.md").write_text(text)

    return write
